"""Any Python function as a judge, checked for what such functions do wrong."""

import collections
from collections.abc import Callable, Sequence, Set
import contextlib
import copy
import math
import numbers
import random
import signal
import threading

import numpy as np

from xpo_jax.data.records import Prompt
from xpo_jax.errors import first_line, usage_error
from xpo_jax.judges import wording
from xpo_jax.judges.candidates import Candidates, Judge, Judgement

# Prompts and completions, one of each a row -> one number a row. None, NaN and
# infinity say that a row cannot be scored.
Function = Callable[[list[Prompt], list[str]], Sequence[float | None]]
SECONDS = 30.0
CONSTANT = 100  # calls in a row with one number and no other


def from_function(
  function: Function,
  name: str = "",
  seconds: float = SECONDS,
  limit: float = 1e6,
) -> Judge:
  """A judge out of a function of lists of prompts and completions.

  The first batch is scored twice: a function that answers differently would
  make a run that cannot be resumed. Scores beyond +-limit are cut and counted
  as judge/clipped. One that gave the same number to all completions of 100
  calls in a row teaches nothing, and is warned of.

  Args:
    function: called with lists of its own, one row a completion.
    name: for messages; the function's own if empty.
    seconds: that one call may take.
    limit: of |score|.

  Raises:
    XpoError: no function; when judging (64): it raises, hangs, changes its
      arguments, or returns another number of rows, or something else than
      numbers.
  """
  name = name or getattr(function, "__name__", type(function).__name__)
  if not callable(function):
    raise usage_error(f"reward function {name}: not callable")
  if not (seconds > 0 and limit > 0):
    raise usage_error(
      f"reward function {name}: seconds={seconds}, limit={limit}; want > 0"
    )
  checked, watch = False, _make_watch(name)

  def judge(candidates: Candidates) -> Judgement:
    nonlocal checked
    places = candidates.places()
    prompts = [candidates.prompts[b] for b, _ in places]
    texts = [candidates.texts[b][k] for b, k in places]
    row = lambda n: _where(candidates, *places[n])
    call = lambda seed: _call(
      function, name, prompts, texts, seconds, row, seed
    )
    values, invalid = call(0) if places else ([], collections.Counter())
    if places and not checked:
      _replay(name, values, call(1)[0], row)
      checked = True
    watch(values)
    scores = np.full(candidates.shape, np.nan)
    for (b, k), value in zip(places, values, strict=True):
      scores[b, k] = value
    clipped = np.clip(scores, -limit, limit)
    cut = np.sum(np.isfinite(scores) & (clipped != scores))
    share = float(cut / max(1, len(places)))
    return Judgement(clipped, len(places), invalid, {"judge/clipped": share})

  return judge


def _where(candidates: Candidates, b: int, k: int) -> str:
  """Also by its words: the number is that of a slice of all prompts."""
  words = wording.quote(candidates.prompts[b])
  return f"prompt {b}, completion {k} of {words:.60}"


def _call(function, name, prompts, texts, seconds, row, seed):
  """(values with NaN where there is none, reasons of those).

  The global generators stand at `seed` inside: a function that draws from them
  gives itself away, and does not move ours.
  """
  own = copy.deepcopy(prompts), list(texts)
  where = f"reward function {name}"
  noise = random.getstate(), np.random.get_state()
  random.seed(seed)
  np.random.seed(seed)
  try:
    with _alarm(seconds):
      found = function(*own)
  except _TimeUp as e:
    raise usage_error(
      f"{where}: no answer within {seconds:g} s for {len(texts)} completions; "
      "make it faster or raise seconds"
    ) from e
  except (Exception, SystemExit) as e:
    bad = _first_bad(function, prompts, texts, seconds)
    at = f" at {row(bad)}" if bad is not None else ""
    raise usage_error(
      f"{where} raised {type(e).__name__}{at}: {first_line(e)}; mend it, or "
      "return None for what it cannot score"
    ) from e
  finally:
    random.setstate(noise[0])
    np.random.set_state(noise[1])
  if own != (prompts, list(texts)):
    raise usage_error(f"{where} changed its arguments; let it copy them")
  return _values(where, found, len(texts), row)


def _values(where, found, count, row):
  unordered = isinstance(found, str | bytes | dict | Set)
  if unordered or not hasattr(found, "__len__"):
    raise usage_error(
      f"{where} returned {type(found).__name__}; want a list of numbers"
    )
  shape = np.shape(found) if hasattr(found, "shape") else (len(found),)
  if shape != (count,):
    raise usage_error(
      f"{where} returned shape {tuple(shape)} for {count} completions; want "
      "one number each"
    )
  values, invalid = [], collections.Counter()
  for n, value in enumerate(found):
    value, reason = _number(value)
    if reason == "type":
      raise usage_error(
        f"{where} returned {found[n]!r:.40} at {row(n)}; want a number or None"
      )
    invalid[reason] += bool(reason)
    values.append(value)
  return values, +invalid


def _number(value) -> tuple[float, str]:
  if value is None:
    return math.nan, "none"
  if isinstance(value, np.generic | np.ndarray) or hasattr(value, "__array__"):
    value = value.item() if np.ndim(value) == 0 else value
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    return math.nan, "type"
  try:
    value = float(value)
  except OverflowError:  # an integer of 309 digits or more
    return math.nan, "infinite"
  if not math.isfinite(value):
    return math.nan, "nan" if math.isnan(value) else "infinite"
  return value, ""


def _first_bad(function, prompts, texts, seconds) -> int | None:
  """The first row at which it raises alone, if it does so alone."""
  with contextlib.suppress(_TimeUp), _alarm(seconds):
    for n, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
      try:
        function([copy.deepcopy(prompt)], [text])
      except (Exception, SystemExit):
        return n
  return None


def _make_watch(name: str) -> Callable[[Sequence[float]], None]:
  """What is told every call's values, and warns of a constant function."""
  last, calls = math.nan, 0

  def watch(values: Sequence[float]) -> None:
    nonlocal last, calls
    known = {value for value in values if not math.isnan(value)}
    if not known:
      return
    value = known.pop() if len(known) == 1 else math.nan
    calls = calls + 1 if value == last else 1
    last = value
    if calls == CONSTANT:
      print(
        f"warning: reward function {name} gave {value:g} to all completions of "
        f"{CONSTANT} calls in a row; nothing can be learned from it"
      )

  return watch


def _replay(name, values, again, row) -> None:
  """Equal to the bit, or an error."""
  for n, (one, two) in enumerate(zip(values, again, strict=True)):
    if one != two and not (math.isnan(one) and math.isnan(two)):
      raise usage_error(
        f"reward function {name} gave {one:g} and then {two:g} at {row(n)}; "
        "take its random numbers from a seed of the text"
      )


class _TimeUp(BaseException):
  """Raised inside a function that takes too long.

  No Exception: a loop that goes on after any of these would never end.
  """


@contextlib.contextmanager
def _alarm(seconds: float):
  """Interrupts what runs inside, be it a loop, a sleep or a slow regex.

  Only the main thread can be interrupted, and no library that never comes back
  to Python: that is for the run's watchdog. The alarm goes off again every
  second, for functions that swallow exceptions.
  """
  if threading.current_thread() is not threading.main_thread():
    raise usage_error("reward functions run in the main thread only")

  inside = [True]

  def ring(*_):
    if inside:
      raise _TimeUp

  before = signal.signal(signal.SIGALRM, ring)
  signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
  try:
    try:
      yield
    finally:  # one that rings from here on must not keep the rest from running
      inside.clear()
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
