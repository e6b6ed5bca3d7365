import math

import numpy as np
import pytest

from xpo_jax.evals.length_control import RIDGE, length_controlled


def logit(p):
  return math.log(p / (1 - p))


def sigmoid(x):
  return 1 / (1 + math.exp(-x))


def test_two_groups_by_hand():
  """80% where 30 longer, 40% where 30 shorter: the mean of the logits."""
  n = 20_000
  gaps = [30.0] * n + [-30.0] * n
  won = [1.0] * int(0.8 * n) + [0.0] * int(0.2 * n)
  won += [1.0] * int(0.4 * n) + [0.0] * int(0.6 * n)
  found = length_controlled(won, gaps, [""] * len(won))
  theta = (logit(0.8) + logit(0.4)) / 2
  phi = (logit(0.8) - logit(0.4)) / 2 / math.tanh(1)  # gaps = their own rms
  assert found.rate.value == pytest.approx(sigmoid(theta), abs=1e-6)
  assert found.slope == pytest.approx(phi, abs=1e-5)
  assert found.n == 2 * n


def test_length_bias_alone_is_a_tie():
  """The longer one wins nine of ten; one side is longer three of four times."""
  won = [1.0] * 270 + [0.0] * 30 + [1.0] * 10 + [0.0] * 90
  gaps = [9.0] * 300 + [-9.0] * 100
  found = length_controlled(won, gaps, [""] * 400)
  assert np.mean(won) == 0.7
  assert found.rate.value == pytest.approx(0.5, abs=1e-3)
  assert found.slope == pytest.approx(logit(0.9) / math.tanh(1), abs=5e-3)


def test_equal_lengths_leave_the_plain_rate_and_its_error():
  won = [1.0, 1.0, 0.0, 0.0]
  found = length_controlled(won, [0.0] * 4, ["a", "b", "c", "d"])
  assert found.rate.value == pytest.approx(0.5)
  # Scores +-1/2, squared and summed 1, CR1 4/3; curvature 4 x 1/4 + ridge.
  error = math.sqrt(4 / 3) / (1 + RIDGE)
  assert found.rate.high == pytest.approx(sigmoid(1.959963984540054 * error))
  assert found.rate.low == pytest.approx(1 - found.rate.high)
  # Two clusters of two: sums (+1, -1) give 2 x 2 / 1.
  paired = length_controlled(won, [0.0] * 4, ["a", "a", "b", "b"])
  assert paired.rate.high == pytest.approx(
    sigmoid(1.959963984540054 * 2 / (1 + RIDGE))
  )


def test_the_minimum_is_one():
  """The slopes of the penalised loss vanish, written out pair by pair."""
  rng = np.random.default_rng(0)
  gaps = rng.normal(size=30) * 40
  won = rng.choice([0.0, 0.5, 1.0], size=30)
  found = length_controlled(won, gaps, [""] * 30)
  theta, phi = logit(found.rate.value), found.slope
  scale = math.sqrt(sum(g * g for g in gaps) / 30)
  slope = [RIDGE * theta, RIDGE * phi]
  for g, w in zip(gaps, won):
    x = math.tanh(g / scale)
    gap = sigmoid(theta + phi * x) - w
    slope = [slope[0] + gap, slope[1] + gap * x]
  np.testing.assert_allclose(slope, [0, 0], atol=1e-9)


def test_always_won_stays_finite():
  found = length_controlled([1.0] * 50, [5.0, -5.0] * 25, [""] * 50)
  assert 0.99 < found.rate.value < 1
  assert abs(found.slope) < 1e-9


def test_swapping_sides_mirrors():
  rng = np.random.default_rng(1)
  gaps, won = rng.normal(size=20), rng.integers(0, 2, 20)
  one = length_controlled(won, gaps, [""] * 20)
  other = length_controlled(1 - won, -gaps, [""] * 20)
  assert one.rate.value == pytest.approx(1 - other.rate.value)
  assert one.slope == pytest.approx(other.slope)


def test_missing_verdicts_are_left_out():
  nan = float("nan")
  found = length_controlled([1, nan, 0], [1.0, 50.0, -1.0], ["a", "b", "c"])
  assert found == length_controlled([1, 0], [1.0, -1.0], ["a", "c"])
  none = length_controlled([nan], [1.0], ["a"])
  assert none.n == 0 and math.isnan(none.rate.value)


def test_bad_numbers():
  with pytest.raises(ValueError, match="not finite"):
    length_controlled([1, 0], [1, math.inf], ["a", "b"])
  with pytest.raises(ValueError, match="outcomes"):
    length_controlled([1, 0], [1], ["a", "b"])
