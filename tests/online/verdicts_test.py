"""What a judge is shown of samples, and what is made of its answer."""

import collections
import json

import numpy as np
import pytest

from xpo_jax.data.records import Message
from xpo_jax.errors import Exit, XpoError
from xpo_jax.judge_config import Built
from xpo_jax.judges.candidates import Judgement
from xpo_jax.judges.tally import Tally
from xpo_jax.online import verdicts
from xpo_jax.online.draw import Drawn

WORDS = {3: " ", 4: "ab", 5: "c", 9: "<end>"}
ENDED = np.array([[True, False], [True, True]])


class Letters:
  """A tokenizer of four tokens."""

  def decode(self, ids):
    return "".join(WORDS[int(i)] for i in ids)


def drawn():
  tokens = np.array([[[3, 4, 9], [4, 5, 3]], [[9, 0, 0], [5, 9, 0]]], np.int32)
  return Drawn(tokens, tokens > 0, 0.0 * tokens, ENDED)


def test_a_judge_reads_texts_without_their_end():
  turn = (Message("user", "hello"),)
  read = lambda template: verdicts.texts_of(
    drawn(), ["plain", turn], Letters(), template
  )
  assert read("plain") == [[" ab", "abc "], ["", "c"]]
  # The space before an assistant's turn is the plain template's.
  both = verdicts.texts_of(drawn(), [turn, turn], Letters(), "plain")
  assert both == [["ab", "abc "], ["", "c"]]
  assert read("chat")[0] == [" ab", "abc "]


def counting(answer):
  """A judge that answers `answer` of a text, and what it was asked."""
  asked = []

  def judge(candidates):
    asked.extend(t for own in candidates.texts for t in own)
    scores = np.array(
      [[answer(t) for t in own] for own in candidates.texts], float
    )
    bad = int(np.isnan(scores).sum())
    reasons = collections.Counter({"nan": bad} if bad else {})
    return Judgement(scores, scores.size, reasons, {"judge/odd": 2.0})

  return judge, asked


def score(answer, tally=Tally(), path=None, max_invalid=0.5):  # noqa: B008
  judge, asked = counting(answer)
  found = verdicts.score(
    Built(judge, None, "stand-in", max_invalid),
    ["p", "q"],
    [["a", "bb"], ["ccc", "dddd"]],
    ENDED,
    tally,
    path,
  )
  return found, asked


def test_scores_and_their_numbers():
  found, _ = score(lambda t: np.nan if t == "bb" else len(t))
  np.testing.assert_array_equal(found.scores, [[1, np.nan], [3, 4]])
  assert found.metrics["judge/odd"] == 2.0
  assert found.metrics["rewards/judge"] == pytest.approx(8 / 3)
  assert found.metrics["rewards/judge_std"] == pytest.approx(np.std([1, 3, 4]))
  assert found.tally.asked == 4 and found.tally.invalid == 1
  more, _ = score(lambda t: len(t), found.tally)
  assert more.tally.asked == 8
  assert more.tally.metrics() == {"judge/invalid": 1 / 8}


def test_win_rates_among_samples_have_no_mean_worth_a_word():
  """.8 and .2 are won, so the mean is 1/2 whatever the policy says."""
  half = [[0.5, 0.8], [0.2, 0.5]]
  answer = Judgement(np.array([half, half]), 4, collections.Counter(), {})
  found = verdicts.score(
    Built(None, lambda _: answer, "pairwise", 0.5),
    ["p", "q"],
    [["a", "bb"], ["ccc", "dddd"]],
    ENDED,
    Tally(),
  )
  np.testing.assert_allclose(found.scores, [[0.65, 0.35]] * 2)
  assert found.relative and "rewards/judge" not in found.metrics
  assert found.metrics["rewards/judge_std"] == pytest.approx(0.15)


def test_without_a_judge_there_is_nothing_to_add():
  found = verdicts.score(None, ["p", "q"], [["a"]], ENDED, Tally())
  assert not found.scores.any() and found.metrics == {}


def test_too_many_that_have_no_score_stop_the_run():
  tally = Tally(200, (("nan", 100),))
  with pytest.raises(XpoError, match="104 of 204 replies") as error:
    score(lambda t: np.nan, tally)
  assert error.value.code == Exit.NUMERIC


def test_nothing_is_asked_twice(tmp_path):
  path = tmp_path / "x.judge"
  one, asked = score(len, path=path)
  two, again = score(len, path=path)
  assert len(asked) == 4 and again == []
  np.testing.assert_array_equal(one.scores, two.scores)
  assert one.metrics == two.metrics
  assert json.loads(path.read_text())["asked"] == 4


def test_wins_against_the_opponents_sample_of_the_same_place():
  """A judge of texts becomes sigma(own - other), worked out here."""
  judge, asked = counting(len)
  found = verdicts.against(
    Built(judge, None, "stand-in", 0.5),
    ["p", "q"],
    [["a", "bb"], ["ccc", "dddd"]],
    [["", "bbbb"], ["c", ""]],
    ENDED,
    ~ENDED,
    Tally(),
  )
  sigma = lambda d: 1 / (1 + np.exp(-d))
  np.testing.assert_allclose(
    found.scores, [[sigma(1), sigma(-2)], [sigma(2), sigma(4)]], rtol=1e-12
  )
  assert asked == ["a", "", "bb", "bbbb", "ccc", "c", "dddd", ""]
  assert found.texts == [["a", "bb"], ["ccc", "dddd"]]


def test_a_pair_judge_gives_win_rates_among_the_samples():
  """Of the mean of 0.8 a shorter one, 0.2 a longer, 1/2 an equal and itself."""

  def pairs(candidates):
    n = np.array([[len(t) for t in own] for own in candidates.texts])
    more = np.sign(n[:, :, None] - n[:, None, :])
    scores = 0.5 + 0.3 * more
    return Judgement(scores, 2, collections.Counter(), {})

  found = verdicts.score(
    Built(None, pairs, "stand-in", 0.5),
    ["p", "q"],
    [["a", "bb", "ccc"], ["x", "x", "yy"]],
    np.ones((2, 3), bool),
    Tally(),
  )
  np.testing.assert_allclose(
    found.scores, [[0.3, 0.5, 0.7], [0.4, 0.4, 0.7]], atol=1e-12
  )
