import itertools
import math

import numpy as np
import pytest

from xpo_jax.evals import overoptimization as over


def test_kl_of_best_of_n():
  found = [over.best_of_n_kl(n) for n in (1, 2, 4, 8, 16)]
  expected = [0, 0.1931471806, 0.6362943611, 1.2044415417, 1.8350887222]
  np.testing.assert_allclose(found, expected, atol=1e-10)


def test_best_of_n_golden():
  proxy, gold = [0.1, 0.9, 0.5, 0.3], [1, 2, 4, 3]
  assert over.best_of_n(proxy, gold, 2) == pytest.approx(2.8333333333)
  assert over.best_of_n(proxy, gold, 1) == pytest.approx(10 / 4)
  assert over.best_of_n(proxy, gold, 4) == pytest.approx(2)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7])
def test_best_of_n_is_the_mean_over_all_subsets(n):
  rng = np.random.default_rng(n)
  proxy = rng.integers(0, 4, 7).astype(float)  # with ties
  gold = rng.normal(size=7)
  means = []
  for subset in itertools.combinations(range(7), n):
    best = max(proxy[i] for i in subset)
    every = [i for i in range(7) if proxy[i] == best]
    means.append(np.mean(gold[every]))
  assert over.best_of_n(proxy, gold, n) == pytest.approx(np.mean(means))


def test_best_of_many_does_not_overflow():
  """gold = rank / N: the mean of the largest of n without replacement."""
  size, n = 5000, 700
  rank = np.arange(1, size + 1)
  found = over.best_of_n(rank, rank, n)
  assert found == pytest.approx(n * (size + 1) / (n + 1), rel=1e-9)


@pytest.mark.parametrize("n", [0, 3])
def test_best_of_too_many(n):
  with pytest.raises(ValueError, match="n="):
    over.best_of_n([1, 2], [1, 2], n)
  with pytest.raises(ValueError, match="finite"):
    over.best_of_n([1, math.nan], [1, 2], 1)


def test_gao_golden():
  assert over.Curve("bon", 1, 0.1).gain([3])[0] == pytest.approx(2.1)
  assert over.Curve("rl", 1, 0.1).gain([3])[0] == pytest.approx(2.6704163134)
  assert over.Curve("rl", 1, 0.1).gain([0])[0] == 0


@pytest.mark.parametrize("kind", over.KINDS)
def test_a_fit_gives_back_its_curve(kind):
  d = np.array([0.0, 0.5, 1, 2, 4])
  phi = d if kind == "bon" else np.log(np.maximum(d, 1e-9))
  gain = d * (0.8 - 0.15 * phi)
  gain[0] = 123  # d = 0 is dropped
  found = over.fit(d, gain, kind)
  assert (found.a, found.b) == (pytest.approx(0.8), pytest.approx(0.15))
  grid = np.linspace(1e-3, 200, 2_000_001)
  top = grid[np.argmax(found.gain(grid))]
  assert found.peak == pytest.approx(top, abs=2e-4)


def test_a_fit_is_least_squares():
  """Normal equations by hand: features (1, -1), (2, -4), (3, -9)."""
  d, gain = [1.0, 2.0, 3.0], [1.0, 1.0, 2.0]
  # [[14, -36], [-36, 98]] (a, b) = (9, -23): det 76.
  found = over.fit(d, gain, "bon")
  assert found.a == pytest.approx((9 * 98 - 36 * 23) / 76)
  assert found.b == pytest.approx((14 * -23 + 36 * 9) / 76)


def test_peaks_that_are_none():
  assert over.Curve("bon", 1, -0.1).peak == math.inf
  assert over.Curve("rl", -1, 0).peak != over.Curve("rl", -1, 0).peak
  assert math.isnan(over.Curve("bon", -1, 0.1).peak)
  assert over.Curve("rl", 1, 1e-9).peak == math.inf


@pytest.mark.parametrize(
  "d, gain, kind, words",
  [
    ([1, 1], [1, 2], "bon", "two different"),
    ([0, 1], [1, 2], "bon", "two different"),
    ([-1, 1], [1, 2], "rl", "negative"),
    ([1, 2], [1, math.nan], "rl", "not finite"),
    ([1, 2], [1, 2], "ppo", "kind 'ppo'"),
    ([1, 2], [1], "rl", "distances"),
  ],
)
def test_no_fit(d, gain, kind, words):
  with pytest.raises(ValueError, match=words):
    over.fit(d, gain, kind)


def test_frontier_by_hand():
  d = [0, 1, 2, 2, 3, 3, 1]
  r = [0, 2, 1, 2, 3, 3, float("nan")]
  # (2, 1) and (2, 2) lose to (1, 2); the twins at (3, 3) both stay.
  expected = [True, True, False, False, True, True, False]
  assert over.frontier(d, r).tolist() == expected
