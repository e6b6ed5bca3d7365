"""Invalid replies stop a run, and never become numbers."""

import collections

import numpy as np
import pytest

from tests.judges.stand_ins import candidates
from xpo_jax.errors import Exit, XpoError
from xpo_jax.judges import combine, rules, tally
from xpo_jax.judges.candidates import Judgement, make_candidates


def replies(asked, **reasons):
  return Judgement(np.zeros((1, 1)), asked, collections.Counter(reasons))


def test_a_judge_that_never_parses_is_stopped_early():
  now = tally.Tally().add(replies(1, grammar=1))
  now.check(0.01)
  now = now.add(replies(2, grammar=1, empty=1))
  with pytest.raises(XpoError) as e:
    now.check(0.01, "rating judge")
  assert e.value.code == Exit.NUMERIC
  assert str(e.value) == (
    "rating judge: 3 of 3 replies are invalid (empty 1, grammar 2), more than "
    "max_invalid=0.01; mend the judge or raise max_invalid"
  )
  now.check(0.03)


def test_the_share_counts_over_the_run():
  now = tally.Tally().add(replies(500, size=5))
  now.check(0.01)
  assert now.metrics() == {"judge/invalid": 0.01}
  with pytest.raises(XpoError, match="6 of 501"):
    now.add(replies(1, size=1)).check(0.01)
  now.add(replies(100, size=1)).check(0.01)


def test_valid_completions():
  present = np.array([[True, True, False]])
  these = candidates(("a", "b", "c"), present=present)
  scores = np.array([[1.0, np.nan, 2.0]])
  point = Judgement(scores, 3, collections.Counter())
  assert tally.valid(point, these).tolist() == [[True, False, False]]
  wins = np.full((1, 3, 3), np.nan)
  wins[0, 0, 0] = wins[0, 1, 1] = 0.5
  pair = Judgement(wins, 3, collections.Counter())
  assert not tally.valid(pair, these).any()
  wins[0, 0, 1] = wins[0, 1, 0] = 0.5
  assert tally.valid(pair, these).tolist() == [[True, True, False]]


def test_weighted_sum():
  judge = combine.weighted(
    [(2.0, rules.length(2, 2)), (-0.5, rules.format_match("a.*"))]
  )
  found = judge(candidates(("a b", "b", "a")))
  assert found.scores.tolist() == [[1.5, 1.0, 0.5]] and found.asked == 6


def test_bradley_terry_and_win_rates():
  pair = combine.bradley_terry(rules.length(4, 4), scale=2.0)
  found = pair(candidates(("a b c d", "a b")))
  p = 1 / (1 + np.exp(-1.0))
  np.testing.assert_allclose(found.scores, [[[0.5, p], [1 - p, 0.5]]])
  rates = combine.win_rates(pair)(candidates(("a b c d", "a b")))
  wanted = [[(0.5 + p) / 2, (1.5 - p) / 2]]
  np.testing.assert_allclose(rates.scores, wanted)
  alone = np.array([[[0.5, np.nan], [np.nan, np.nan]], [[0.5, 1], [0, 0.5]]])
  found = combine.mean_wins(alone)
  np.testing.assert_array_equal(found, [[np.nan, np.nan], [0.75, 0.25]])


def test_shapes_must_agree():
  with pytest.raises(ValueError, match="2 prompts"):
    make_candidates(["a", "b"], [["x"]])
  with pytest.raises(ValueError, match="shapes"):
    make_candidates(["a", "b"], [["x"], ["x", "y"]])


def test_bradley_terry_says_nothing_of_what_has_no_score():
  scores = np.array([[0.0, np.nan, 2.0]])
  judge = lambda _: Judgement(scores, 3, collections.Counter())
  found = combine.bradley_terry(judge)(None).scores[0]
  assert np.isnan(found[1]).all() and np.isnan(found[:, 1]).all()
  assert found[2, 0] == pytest.approx(1 / (1 + np.exp(-2)))
