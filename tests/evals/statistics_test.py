import math

import numpy as np
import pytest

from xpo_jax.evals import statistics


def test_clustered_se_by_hand():
  # Mean 4; residuals -3, -1, 0, 4; cluster sums a = -4, b = 4.
  # CR0 = (16 + 16) / 4^2 = 2; CR1 = 2 * 2/1 = 4; se = 2.
  result = statistics.clustered_mean([1, 3, 4, 8], ["a", "a", "b", "b"])
  assert result == (4.0, 2.0, 4, 2)


def test_clusters_need_not_be_adjacent_or_equal_in_size():
  # Mean 2; residuals -2, 0, 2, 0; sums a = -2 + 2 = 0, b = 0, c = 0.
  result = statistics.clustered_mean([0, 2, 4, 2], ["a", "b", "a", "c"])
  assert result == (2.0, 0.0, 4, 3)


def test_unnamed_clusters_stand_alone_and_give_the_usual_se():
  values = [1.0, 2.0, 4.0, 9.0]
  result = statistics.clustered_mean(values, [""] * 4)
  # Residuals -3, -2, 0, 5: s^2 = (9 + 4 + 0 + 25) / 3.
  assert result.se == pytest.approx(math.sqrt(38 / 3 / 4), rel=1e-12)
  assert result.clusters == 4
  assert statistics.clustered_mean(values, [1, 2, 3, 4]) == result


def test_one_cluster_has_no_se_and_nothing_has_no_mean():
  one = statistics.clustered_mean([1, 3], ["a", "a"])
  assert one.mean == 2 and math.isnan(one.se)
  none = statistics.clustered_mean([], [])
  assert none.n == 0 and math.isnan(none.mean)


@pytest.mark.parametrize("values", [[1.0, math.nan], [1.0, math.inf], [1.0]])
def test_bad_values_raise(values):
  with pytest.raises(ValueError):
    statistics.clustered_mean(values, ["a", "b"])


def test_accuracy_counts_ties_as_wrong():
  # Right: 1, 0, 0, 1 -> 1/2; residuals .5, -.5, -.5, .5; sums a 0, b 0.
  result = statistics.accuracy([2.0, 0.0, -1.0, 0.1], ["a", "a", "b", "b"])
  assert result == (0.5, 0.0, 4, 2)


def test_bootstrap_of_a_constant_difference_has_no_width():
  base = np.asarray([0.0, 5.0, -2.0])
  result = statistics.paired_bootstrap(base, base + 0.5, ["a", "b", "c"])
  assert result == (0.5, 0.5, 0.5)


def test_bootstrap_resamples_whole_clusters():
  # Two clusters of four pairs, differences all 0 and all 1: a sample's mean is
  # 0, 1/2 or 1 with probability 1/4, 1/2, 1/4. Drawing single pairs instead
  # would make 0 and 1 as rare as 2^-8.
  base, new = np.zeros(8), np.asarray([0.0] * 4 + [1.0] * 4)
  result = statistics.paired_bootstrap(base, new, ["a"] * 4 + ["b"] * 4)
  assert result == (0.5, 0.0, 1.0)


def test_bootstrap_weighs_clusters_by_their_pairs():
  # a: one pair of 1; b: three pairs of 0. Means: aa 1, ab 1/4, bb 0.
  result = statistics.paired_bootstrap(
    [0, 0, 0, 0], [1, 0, 0, 0], ["a", "b", "b", "b"]
  )
  assert result == (0.25, 0.0, 1.0)


def test_bootstrap_agrees_with_the_normal_interval():
  rng = np.random.default_rng(3)
  clusters = np.repeat(np.arange(100), 3)
  effect = rng.normal(size=100)[clusters]
  new = 0.2 + effect + rng.normal(size=300)
  result = statistics.paired_bootstrap(np.zeros(300), new, clusters, seed=1)
  se = statistics.clustered_mean(new, clusters).se
  assert result.value == pytest.approx(new.mean())
  assert result.high - result.low == pytest.approx(2 * 1.96 * se, rel=0.06)


def test_bootstrap_depends_on_its_seed_alone():
  values = np.arange(20.0) ** 2
  draw = lambda seed: statistics.paired_bootstrap(
    np.zeros(20), values, range(20), 500, seed
  )
  assert draw(1) == draw(1)
  assert draw(1) != draw(2)


def test_bootstrap_of_one_cluster_has_no_interval():
  result = statistics.paired_bootstrap([0, 0], [1, 2], ["a", "a"])
  assert result.value == 1.5
  assert math.isnan(result.low) and math.isnan(result.high)


def test_wilson_by_hand():
  # p = 1/2, n = 4, z^2 = 3.841459: centre 1/2,
  # half = z / (1 + z^2/4) * sqrt(1/16 + z^2/64).
  z2 = 3.841458820694124
  half = math.sqrt(z2) / (1 + z2 / 4) * math.sqrt(1 / 16 + z2 / 64)
  value, low, high = statistics.wilson(2, 4)
  assert value == 0.5
  assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-12)


def test_wilson_at_the_ends():
  # p = 0: low 0, high = z^2/n / (1 + z^2/n).
  z2 = 3.841458820694124
  value, low, high = statistics.wilson(0, 10)
  assert (value, low) == (0.0, 0.0)
  assert high == pytest.approx(z2 / 10 / (1 + z2 / 10), rel=1e-12)
  assert statistics.wilson(10, 10).high == pytest.approx(1.0, abs=1e-12)
  assert statistics.wilson(0, 0)[1:] == (0.0, 1.0)
  with pytest.raises(ValueError):
    statistics.wilson(3, 2)
