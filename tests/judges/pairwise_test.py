"""Pair judges out of tables of answers."""

import numpy as np
import pytest

from tests.judges.stand_ins import candidates, logit, shown
from xpo_jax.data import comparison
from xpo_jax.judges import combine, nulls, pairwise

RPS = {("rock", "scissors"), ("scissors", "paper"), ("paper", "rock")}


def asker(p_first, answers, seen=None):
  """Answers whose P of the first is p_first(first text, second text)."""

  def ask(questions):
    out = []
    for question, own in questions:
      assert tuple(own) == answers
      labels = list(shown(question).items())[1:]  # the prompt is first
      if seen is not None:
        seen.append(labels)
      p = p_first(labels[0][1], labels[1][1])
      # Only the difference counts: the rest of the mass is elsewhere.
      out.append(np.array([logit(p) - 20.0, -20.0]))
    return out

  return ask


def test_both_orders_are_asked_and_averaged():
  table = {("x", "y"): 0.9, ("y", "x"): 0.3}
  seen = []
  judge = pairwise.language_model(
    asker(lambda a, b: table[a, b], ("1", "2"), seen)
  )
  found = judge(candidates(("x", "y")))
  assert seen == [
    [("Answer 1", "x"), ("Answer 2", "y")],
    [("Answer 1", "y"), ("Answer 2", "x")],
  ]
  p = (0.9 + 1 - 0.3) / 2
  np.testing.assert_allclose(found.scores, [[[0.5, p], [1 - p, 0.5]]])
  assert found.asked == 2 and not found.invalid
  assert found.metrics["judge/position_bias"] == 0.0


def test_a_judge_of_places_alone_is_a_tie():
  judge = pairwise.language_model(asker(lambda a, b: 0.95, ("1", "2")))
  found = judge(candidates(("x", "y"), ("u", "v")))
  np.testing.assert_allclose(found.scores, np.full((2, 2, 2), 0.5))
  assert found.metrics["judge/position_bias"] == 1.0


def test_position_bias_is_a_share():
  first = np.full((3, 2, 2), np.nan)
  first[0, 0, 1], first[0, 1, 0] = 0.8, 0.7  # the first place twice
  first[1, 0, 1], first[1, 1, 0] = 0.2, 0.4  # the second place twice
  first[2, 0, 1], first[2, 1, 0] = 0.8, 0.4  # the same text twice
  assert pairwise.position_bias(first) == 2 / 3
  first[1, 1, 0] = 0.5  # half of it is no preference
  assert pairwise.position_bias(first) == 1 / 3
  first[1, 1, 0] = np.nan
  assert pairwise.position_bias(first) == 0.5
  assert np.isnan(pairwise.position_bias(np.full((1, 2, 2), np.nan)))


def test_rock_paper_scissors():
  """No scores can say it: every one beats one and loses to one by .9."""
  p = lambda a, b: 0.9 if (a, b) in RPS else 0.1
  judge = pairwise.preference_model(asker(p, comparison.ANSWERS))
  found = judge(candidates(("rock", "paper", "scissors")))
  wanted = [[0.5, 0.1, 0.9], [0.9, 0.5, 0.1], [0.1, 0.9, 0.5]]
  np.testing.assert_allclose(found.scores, [wanted])
  rates = combine.win_rates(judge)(candidates(("rock", "paper", "scissors")))
  np.testing.assert_allclose(rates.scores, [[0.5, 0.5, 0.5]])


def test_the_preference_model_sees_its_training_question():
  seen = []

  def ask(questions):
    seen.extend(questions)
    return [np.zeros(2)] * len(questions)

  pairwise.preference_model(ask)(candidates((" x", "y")))
  assert seen == [
    (comparison.question("p0?", " x", "y"), ("A", "B")),
    (comparison.question("p0?", "y", " x"), ("A", "B")),
  ]


@pytest.mark.parametrize("k", [2, 4])
def test_a_bradley_terry_model_gives_back_its_rewards(k):
  """logit P(i, j) = r_i - r_j, and RSO's reward against a base is r - r_0."""
  r = dict(zip("abcd", (0.3, -1.2, 2.0, 0.0), strict=True))
  p = lambda a, b: 1 / (1 + np.exp(r[b] - r[a]))
  judge = pairwise.language_model(asker(p, ("1", "2")))
  texts = tuple("abcd"[:k])
  wins = judge(candidates(texts)).scores[0]
  own = np.array([r[t] for t in texts])
  np.testing.assert_allclose(
    np.log(wins / wins.T), own[:, None] - own[None], atol=1e-9
  )
  found = combine.reward_from_pairs(judge)(candidates(texts))
  np.testing.assert_allclose(found.scores, [own - own[0]], atol=1e-9)
  assert found.asked == 2 * (k - 1)


def test_rewards_against_the_first_that_is_there():
  """An absent first one costs its prompt nothing but itself."""
  judge = pairwise.language_model(asker(lambda a, b: 1.0, ("1", "2")))
  sure = pairwise.language_model(
    asker(lambda a, b: float(a == "y"), ("1", "2"))
  )
  present = np.array([[True, True, False], [False, True, True], [False] * 3])
  these = candidates(*[("x", "y", "z")] * 3, present=present)
  nan = np.nan
  found = combine.reward_from_pairs(judge)(these)
  wanted = [[0, 0, nan], [nan, 0, 0], [nan] * 3]
  np.testing.assert_array_equal(found.scores, wanted)
  assert found.asked == 4
  found = combine.reward_from_pairs(sure)(these)
  most = np.log(1e-6) - np.log1p(-1e-6)
  np.testing.assert_allclose(
    found.scores, [[0, -most, nan], [nan, 0, most], [nan] * 3]
  )
  alone = candidates(("x",))
  assert combine.reward_from_pairs(sure)(alone).scores.tolist() == [[0.0]]


def test_a_flagged_first_text_is_no_base():
  sure = pairwise.language_model(
    asker(lambda a, b: float(a == "y"), ("1", "2"))
  )
  judge = nulls.guarded(combine.reward_from_pairs(sure))
  found = judge(candidates((":", "x", "y")))
  most = np.log1p(-1e-6) - np.log(1e-6)
  np.testing.assert_allclose(found.scores, [[np.nan, 0, most]])


def test_absent_texts_and_numbers():
  def ask(questions):
    bad = [np.array([0.0, np.nan]), np.array([-np.inf, -np.inf])]
    return [
      bad[n] if n < 2 else np.array([0.0, -np.inf])
      for n, _ in enumerate(questions)
    ]

  present = np.array([[True, True, True, False]])
  judge = pairwise.language_model(ask)
  # Asked: 01 (NaN) 02 (NaN) 10 12 20 21, each "the first, for sure".
  found = judge(candidates(tuple("abcd"), present=present))
  assert found.asked == 6 and found.invalid == {"not_finite": 2}
  nan = np.nan
  wanted = [
    [0.5, nan, nan, nan],
    [nan, 0.5, 0.5, nan],
    [nan, 0.5, 0.5, nan],
    [nan, nan, nan, nan],
  ]
  np.testing.assert_array_equal(found.scores, [wanted])
