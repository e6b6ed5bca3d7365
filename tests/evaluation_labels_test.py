"""Reward models and judges against rankings written out by hand."""

import math

import numpy as np
import pytest

from tests import runs
from xpo_jax import evaluation_labels as labels
from xpo_jax.errors import XpoError
from xpo_jax.judges import function
from xpo_jax.judges.candidates import Judgement

LISTS = [
  {"prompt": "a", "completions": ["x", "yy", "zzz"], "scores": [3, 2, 1]},
  {"prompt": "b", "completions": ["xx", "y"], "scores": [0, 1]},
  {"prompt": "c", "completions": ["x", "y"], "scores": [1, 1]},
]


@pytest.fixture
def groups(tmp_path):
  return labels.read(str(runs.write(tmp_path / "l.jsonl", LISTS)))


def shorter(prompts, texts):
  return [-float(len(t)) for t in texts]


def test_rows_without_a_ranking_are_refused(tmp_path):
  path = runs.write(tmp_path / "l.jsonl", [LISTS[2]])
  with pytest.raises(XpoError, match="which of two completions") as error:
    labels.read(str(path))
  assert error.value.code == 65


def test_margins_are_of_what_people_prefer(groups):
  scores = np.array([[1, 5, 2], [4, 7, np.nan], [1, 2, np.nan]], float)
  found, clusters = labels.margins(groups, scores)
  # a: x - y, x - z, y - z; b: y - x; c ties.
  assert found.tolist() == [-4, -1, 3, 3]
  assert len(set(clusters)) == 2
  scores[0, 1] = np.nan
  assert labels.margins(groups, scores)[0].tolist() == [-1, 3]


def test_reward_table(groups):
  judge = function.from_function(shorter, "shorter")
  upside_down = function.from_function(
    lambda p, t: [-x for x in shorter(p, t)], "longer"
  )
  table, found = labels.reward_table(groups, {"s": judge, "l": upside_down})
  assert found["s"]["accuracy"] == 1 and found["l"]["accuracy"] == 0
  sigma = lambda x: 1 / (1 + math.exp(-x))
  # Margins 1 2 1 1: sure by sigma(1) thrice, sigma(2) once, always right.
  expected = (3 * (1 - sigma(1)) + (1 - sigma(2))) / 4
  assert found["s"]["calibration error"] == pytest.approx(expected)
  assert found["l"]["Brier score"] == pytest.approx(
    (3 * sigma(1) ** 2 + sigma(2) ** 2) / 4
  )
  assert ["right where it says 70% .. 80%", "1.00 of 3", "0.00 of 3"] in (
    table["rows"]
  )


def test_a_judge_of_texts_agrees(groups):
  candidates = labels.candidates_of(groups)
  assert candidates.present.tolist() == [
    [True] * 3, [True, True, False], [True, True, False]
  ]  # fmt: skip
  found = function.from_function(shorter, "shorter")(candidates)
  _, numbers = labels.agreement_table(groups, found, "shorter")
  assert numbers["agreement"] == 1 and numbers["kappa"] == 1
  assert numbers["exact ranking"] == 1 and numbers["Kendall tau-b"] == 1
  assert "5-best" not in numbers


def test_a_pair_judge_by_hand(groups):
  """a: right, tie, wrong; b: right; c: people do not say."""
  wins = np.full((3, 3, 3), np.nan)
  for b, i, j, p in (
    (0, 0, 1, 0.9), (0, 0, 2, 0.5), (0, 1, 2, 0.2), (1, 0, 1, 0.3),
    (2, 0, 1, 0.8),
  ):  # fmt: skip
    wins[b, i, j], wins[b, j, i] = p, 1 - p
    wins[b, [i, j], [i, j]] = 0.5
  found = Judgement(wins, 8, {}, {"judge/position_bias": 0.25})
  table, numbers = labels.agreement_table(groups, found, "additive")
  assert numbers["agreement"] == (1 + 0.5 + 0 + 1) / 4
  # Both ways round: 4 of 8 the same; a chance of 3/8 x 1/2 twice.
  expected = 2 * 3 / 8 * 1 / 2
  assert numbers["kappa"] == pytest.approx((4 / 8 - expected) / (1 - expected))
  assert numbers["judge/position_bias"] == 0.25
  assert math.isnan(numbers["5-best"])
  assert ["5-best", "–"] in table["rows"]
  # Wins in a: .9 + .5, .1 + .2, .5 + .8, so 0 before 2 before 1; b as people.
  assert numbers["exact ranking"] == pytest.approx((0 + 1 + 0) / 3)
