"""How a run ends in order when it is told to: SIGTERM, and Ctrl-C.

Between steps there is something to save, anywhere else there is not. With
several processes jax's own service takes SIGTERM and lets all of them stop
after the same step.
"""

import contextlib
import signal

from xpo_jax.errors import Exit, XpoError

AGAIN = "start the same command again to go on"


class Told(BaseException):  # passes by `except Exception`
  """Signal `number` has come in a rollout, whose parts so far are kept."""

  def __init__(self, number: int):
    super().__init__(number)
    self.number = number


# Signals that have come. What a handler raises may be lost in a library that
# catches everything; this is not.
_come: list[int] = []


@contextlib.contextmanager
def from_the_start(last: bool = False):
  """`at_once` for a process that has not yet imported jax, nor joined others.

  jax's service takes the signal over when the process joins others. After the
  `last` thing that a process does, SIGTERM has nothing left to end.
  """

  def stop(number, _):
    _come.append(number)
    raise KeyboardInterrupt  # passes by `except Exception`

  after = signal.SIG_IGN if last else None
  with _handling(signal.SIGTERM, stop, after):
    try:
      yield
    except KeyboardInterrupt:
      if not _come:
        raise
    finally:
      told = bool(_come)
      _come.clear()
  if told:
    raise error(signal.SIGTERM)


@contextlib.contextmanager
def at_once():
  """Inside, SIGTERM ends whatever has nothing of its own to save.

  Raises:
    XpoError: SIGTERM has come (exit code 75).
  """
  with contextlib.nullcontext() if _many() else from_the_start():
    yield


@contextlib.contextmanager
def after_step():
  """Yields asked(number): 0, or the signal to end with.

  Poll it after every step; numbers rise, and are the same in all processes.
  SIGTERM and the first Ctrl-C only set a flag, so that the
  current step can be saved; a second Ctrl-C ends at once.

  Raises:
    BaseException: of `error`, if the loop ended without looking.
  """
  if _many():
    from jax.experimental import multihost_utils

    reached = multihost_utils.reached_preemption_sync_point
    yield lambda step: signal.SIGTERM if reached(step) else 0
    return

  def note(number, _):
    _come.append(number)
    if _come.count(signal.SIGINT) > 1:
      raise KeyboardInterrupt

  with _handling(signal.SIGTERM, note), _handling(signal.SIGINT, note):
    try:
      yield lambda step: _come[0] if _come else 0
    except BaseException:
      _come.clear()
      raise
  if _come:
    number = _come[0]
    _come.clear()
    raise error(number)


def error(number: int, done: str = "") -> BaseException:
  """What to raise because of signal `number`; `done` says what was saved."""
  words = [done, AGAIN] if done else [AGAIN]
  if number == signal.SIGINT:
    return KeyboardInterrupt("; ".join(words))
  told = "stopped by SIGTERM" + (f", {done}" if done else "")
  return XpoError(f"{told}; {AGAIN}", Exit.PREEMPTED)


def _many() -> bool:
  import jax  # not before the command line has been read

  return jax.process_count() > 1


@contextlib.contextmanager
def _handling(number: int, handler, after=None):
  """`handler` inside; then `after`, or what was there before."""
  try:
    before = signal.signal(number, handler)
  except ValueError:  # not the main thread (a notebook's worker)
    yield
    return
  try:
    yield
  finally:
    signal.signal(number, before if after is None else after)
