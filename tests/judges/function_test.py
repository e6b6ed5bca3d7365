"""Reward functions, and all that they do wrong."""

import random
import re
import signal
import threading
import time

import numpy as np
import pytest

from tests.judges.stand_ins import candidates
from xpo_jax.errors import Exit, XpoError
from xpo_jax.judges import function

TWO = candidates(("a", "bb"), ("ccc", "dddd"))


def lengths(prompts, texts):
  return [len(t) for t in texts]


def refused(reward, match, cases=TWO, **keywords):
  with pytest.raises(XpoError, match=match) as e:
    function.from_function(reward, **keywords)(cases)
  assert e.value.code == Exit.USAGE and "\n" not in str(e.value)


def test_numbers_of_any_real_type():
  calls = []

  def reward(prompts, texts):
    calls.append(list(zip(prompts, texts, strict=True)))
    return [1, np.float32(0.5), np.array(2.0), 3.5]

  found = function.from_function(reward)(TWO)
  assert found.scores.tolist() == [[1, 0.5], [2, 3.5]] and found.asked == 4
  rows = [("p0?", "a"), ("p0?", "bb"), ("p1?", "ccc"), ("p1?", "dddd")]
  assert calls == [rows, rows]  # the second is the replay


def test_what_cannot_be_scored_is_counted():
  reward = lambda p, t: [None, float("nan"), float("inf"), 1.0]
  found = function.from_function(reward)(TWO)
  assert np.isnan(found.scores).sum() == 3 and found.scores[1, 1] == 1
  assert found.invalid == {"none": 1, "nan": 1, "infinite": 1}


def test_absent_completions_are_not_passed():
  present = np.array([[False, True]])
  found = function.from_function(lengths)(
    candidates(("a", "bb"), present=present)
  )
  assert np.isnan(found.scores[0, 0]) and found.scores[0, 1] == 2
  none = candidates(("a",), present=np.zeros((1, 1), bool))
  assert function.from_function(lengths)(none).asked == 0


def test_large_scores_are_cut():
  judge = function.from_function(lambda p, t: [1e9, -1e9, 3, 4], limit=100)
  found = judge(TWO)
  assert found.scores.tolist() == [[100, -100], [3, 4]]
  assert found.metrics["judge/clipped"] == 0.5


@pytest.mark.parametrize(
  "reward, match",
  [
    (lambda p, t: [1.0], r"shape \(1,\) for 4 completions"),
    (lambda p, t: np.ones((4, 1)), r"shape \(4, 1\)"),
    (lambda p, t: 1.0, "returned float"),
    (lambda p, t: "1234", "returned str"),
    (lambda p, t: None, "returned NoneType"),
    (lambda p, t: [1, 2, "3", 4], "'3' at prompt 1, completion 0"),
    (lambda p, t: [1, True, 3, 4], "True at prompt 0, completion 1"),
    (lambda p, t: [1, 2, 3, [4]], r"\[4\] at prompt 1, completion 1"),
    (lambda p, t: [1 / (len(x) - 3) for x in t], "raised ZeroDivisionError at "
     "prompt 1, completion 0 of .*: division"),
    (lambda p, t: t.clear() or [1, 2, 3, 4], "changed its arguments"),
    (lambda p, t: [random.random() for _ in t], "gave .* and then .* at prompt "
     "0, completion 0"),
    (lambda p, t: np.random.random(4), "gave .* and then"),
  ],
)  # fmt: skip
def test_refused(reward, match):
  refused(reward, match)


def test_it_cannot_move_our_noise():
  random.seed(3)
  np.random.seed(3)
  wanted = random.random(), np.random.random()
  random.seed(3)
  np.random.seed(3)
  draws = lambda p, t: [random.random() + np.random.random()] * 4
  refused(draws, "take its random numbers from a seed")
  assert (random.random(), np.random.random()) == wanted


@pytest.mark.parametrize(
  "hang",
  [
    lambda p, t: time.sleep(60),
    lambda p, t: any(x for x in iter(int, 1)),
    lambda p, t: re.match(r"(a+)+$", "a" * 40 + "b"),
  ],
  ids=["sleep", "loop", "regex"],
)
def test_a_hang_ends(hang):
  start = time.monotonic()
  refused(hang, "no answer within 0.2 s for 4 completions", seconds=0.2)
  assert time.monotonic() - start < 50  # none of them ends by itself


def test_an_alarm_that_rings_when_all_is_done(monkeypatch):
  """It is too late to matter, and the clock does not run on."""
  set_clock = signal.setitimer

  def late(which, seconds, *more):
    if not seconds:
      signal.raise_signal(signal.SIGALRM)
    return set_clock(which, seconds, *more)

  monkeypatch.setattr(signal, "setitimer", late)
  found = function.from_function(lengths)(TWO)
  assert found.scores.tolist() == [[1, 2], [3, 4]]
  assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_settings():
  refused(3, "not callable")
  refused(lengths, "want > 0", seconds=0)
  errors = []

  def elsewhere():
    try:
      function.from_function(lengths)(TWO)
    except XpoError as e:
      errors.append(str(e))

  thread = threading.Thread(target=elsewhere)
  thread.start()
  thread.join()
  assert errors == ["reward functions run in the main thread only"]
