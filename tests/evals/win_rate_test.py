import math

import numpy as np
import pytest

from xpo_jax.evals import statistics, win_rate


def test_both_orders_of_a_matrix_are_averaged():
  # The first place wins .9 and .7: 0 beats 1 with (.9 + 1 - .7) / 2.
  raw = np.array([[[0.5, 0.9], [0.7, 0.5]], [[0.5, np.nan], [0.2, 0.5]]])
  found = win_rate.of_matrices(raw)
  np.testing.assert_allclose(found, [0.6, np.nan])
  np.testing.assert_allclose(win_rate.of_matrices(raw, 1, 0), [0.4, np.nan])
  # A matrix that is symmetric already stays: three systems, two of them asked.
  p = np.array([[[0.5, 0.6, 0.1], [0.4, 0.5, 0.3], [0.9, 0.7, 0.5]]])
  np.testing.assert_allclose(win_rate.of_matrices(p, 2, 0), [0.9])


def test_ties_are_half_and_missing_verdicts_are_left_out():
  found = win_rate.win_rate(
    win_rate.verdicts([0.51, 0.9, 0.5, 0.2, float("nan")])
  )
  assert (found.n, found.ties, found.invalid) == (4, 1, 1)
  # 2.5 of 4; Wilson with z^2 = 3.8414588: centre (2.5 + z^2/2) / (4 + z^2).
  assert found.rate.value == 2.5 / 4
  z2 = 1.959963984540054**2
  centre = (2.5 + z2 / 2) / (4 + z2)
  assert (found.rate.low + found.rate.high) / 2 == pytest.approx(centre)
  half = math.sqrt(z2) / (4 + z2) * math.sqrt(2.5 * 1.5 / 4 + z2 / 4)
  assert found.rate.high - found.rate.low == pytest.approx(2 * half)


def test_clusters_that_agree_count_once():
  """Three equal verdicts a prompt are worth one."""
  won = np.repeat([1.0, 1, 0, 1, 0, 1, 1, 0], 3)
  names = np.repeat([f"p{n}" for n in range(8)], 3)
  clustered = win_rate.win_rate(won, list(names)).rate
  assert clustered.value == 5 / 8
  # se^2 of 8 independent means is p (1 - p) / 7: 7 trials.
  expected = statistics.wilson(5 / 8 * 7, 7)
  np.testing.assert_allclose(clustered, expected, rtol=1e-12)
  apart = win_rate.win_rate(won, [""] * 24).rate
  np.testing.assert_allclose(
    apart, statistics.wilson(5 / 8 * 23, 23), rtol=1e-12
  )


def test_all_won_is_a_trial_a_cluster():
  found = win_rate.win_rate([1.0] * 6, ["a", "a", "a", "b", "b", "b"])
  np.testing.assert_allclose(found.rate, statistics.wilson(2, 2))


def test_nothing_judged():
  found = win_rate.win_rate([float("nan")], ["a"])
  assert math.isnan(found.rate.value) and (found.n, found.invalid) == (0, 1)


def test_no_probability():
  with pytest.raises(ValueError, match="outside"):
    win_rate.win_rate([1.5])


def test_elo():
  assert win_rate.elo(1.0) == pytest.approx(173.7177927613, abs=1e-9)
  assert win_rate.elo(0.0) == 0
  # 400 points are odds of 10.
  assert win_rate.elo_of_rate(10 / 11) == pytest.approx(400)
  assert win_rate.elo_of_rate(0.5) == 0
  assert win_rate.elo_of_rate(1.0) == math.inf
  assert win_rate.elo_of_rate(0.0) == -math.inf
