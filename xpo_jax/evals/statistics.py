"""Means, intervals and tests that respect clusters.

Texts about one film share its quality, so they are not independent: errors are
clustered. A cluster named "" stands for itself alone (data/records.py).
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

NORMAL_95 = 1.959963984540054  # 97.5% quantile of the standard normal


class Estimate(NamedTuple):
  mean: float
  se: float  # NaN with fewer than two clusters
  n: int
  clusters: int


class Interval(NamedTuple):
  value: float
  low: float
  high: float


def cluster_index(clusters: Sequence[Hashable]) -> np.ndarray:
  """[n] cluster names -> int [n], numbered by first appearance."""
  number: dict[Hashable, int] = {}
  index = []
  for place, name in enumerate(clusters):
    key = ("single", place) if name == "" else ("named", name)
    index.append(number.setdefault(key, len(number)))
  return np.asarray(index, np.int64)


def clustered_mean(
  values: Sequence[float], clusters: Sequence[Hashable]
) -> Estimate:
  """Mean with a cluster-robust standard error (CR1).

    S_g = sum over i in cluster g of (x_i - mean)
    CR0 = sum_g S_g^2 / n^2        se^2 = CR1 = CR0 * G / (G - 1)

  With every value its own cluster this is the usual s / sqrt(n).

  Args:
    values: [n], finite.
    clusters: [n].

  Raises:
    ValueError: lengths differ or a value is not finite.

  Reference: Liang and Zeger, Longitudinal data analysis using generalized
  linear models, 1986; CR1 as in Cameron and Miller, A practitioner's guide to
  cluster-robust inference, 2015, equation 11, with one regressor (a constant).
  """
  values, index = _checked(values, clusters)
  n = len(values)
  if n == 0:
    return Estimate(np.nan, np.nan, 0, 0)
  mean = values.mean()
  sums = np.bincount(index, weights=values - mean)
  groups = len(sums)
  if groups < 2:
    return Estimate(float(mean), np.nan, n, groups)
  variance = np.sum(sums**2) / n**2 * groups / (groups - 1)
  return Estimate(float(mean), float(np.sqrt(variance)), n, groups)


def accuracy(
  margins: Sequence[float], clusters: Sequence[Hashable]
) -> Estimate:
  """Share of pairs with margin > 0, with its clustered standard error.

  A tie counts as wrong, as in the metric `rewards/accuracy`.

  Args:
    margins: [n] score of chosen - score of rejected.
    clusters: [n].
  """
  margins, _ = _checked(margins, clusters)
  return clustered_mean((margins > 0).astype(np.float64), clusters)


def paired_bootstrap(
  base: Sequence[float],
  new: Sequence[float],
  clusters: Sequence[Hashable],
  samples: int = 10_000,
  seed: int = 0,
) -> Interval:
  """mean(new - base) and its 95% percentile interval over clusters.

  Each sample draws G clusters of G with replacement, all their pairs with
  them, and takes sum of differences / number of pairs.

  Args:
    base: [n], finite; the pair of new[i].
    new: [n].
    clusters: [n].
    samples: bootstrap samples.
    seed: of the draw.

  Returns:
    The difference, low and high; no interval (NaN) below two clusters.

  Reference: Davison and Hinkley, Bootstrap methods and their application,
  1997, sections 3.8 and 5.3.
  """
  base, index = _checked(base, clusters)
  new, _ = _checked(new, clusters)
  if len(base) == 0:
    return Interval(np.nan, np.nan, np.nan)
  difference = new - base
  sums = np.bincount(index, weights=difference)
  sizes = np.bincount(index)
  groups = len(sums)
  value = float(difference.mean())
  if groups < 2:
    return Interval(value, np.nan, np.nan)
  rng = np.random.default_rng(seed)
  rows = max(1, 1_000_000 // groups)  # bounds the memory of one draw
  means = []
  for start in range(0, samples, rows):
    count = min(rows, samples - start)
    draw = rng.integers(groups, size=(count, groups))
    means.append(sums[draw].sum(1) / sizes[draw].sum(1))
  low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
  return Interval(value, float(low), float(high))


def wilson(successes: float, trials: float) -> Interval:
  """A rate with its 95% Wilson score interval; ties count 1/2 in `successes`.

    (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n),  p = successes/n

  It takes the trials as independent: too narrow for clustered ones.

  Raises:
    ValueError: not 0 <= successes <= trials.

  Reference: Wilson, Probable inference, the law of succession, and statistical
  inference, 1927.
  """
  if not 0 <= successes <= trials:
    raise ValueError(f"successes {successes} not in 0 .. {trials}")
  if trials == 0:
    return Interval(np.nan, 0.0, 1.0)
  rate, z = successes / trials, NORMAL_95
  scale = 1 + z**2 / trials
  centre = (rate + z**2 / (2 * trials)) / scale
  half = z / scale * np.sqrt(rate * (1 - rate) / trials + (z / trials) ** 2 / 4)
  low, high = max(0.0, centre - half), min(1.0, centre + half)
  return Interval(rate, float(low), float(high))


def _checked(
  values: Sequence[float], clusters: Sequence[Hashable]
) -> tuple[np.ndarray, np.ndarray]:
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or len(values) != len(clusters):
    raise ValueError(f"{values.shape} values for {len(clusters)} clusters")
  if not np.isfinite(values).all():
    raise ValueError("a value is not finite: drop and count those first")
  return values, cluster_index(clusters)
