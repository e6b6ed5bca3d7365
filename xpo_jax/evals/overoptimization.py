"""Reward against distance: best of n, Gao's curves, and the frontier.

The distance is d = sqrt(KL(policy || start)) in sqrt(nats); a gain is a gold
reward minus that of the start.
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np

KINDS = ("bon", "rl")


def best_of_n_kl(n: int) -> float:
  """ln n - (n - 1) / n nats: KL(best of n || policy), an upper bound with ties.

  Raises:
    ValueError: n < 1.

  Source: Stiennon et al. 2020, arXiv 2009.01325; methods.md 2.2.
  """
  if n < 1:
    raise ValueError(f"n={n}; want >= 1")
  return math.log(n) - (n - 1) / n


def best_of_n(proxy: Sequence[float], gold: Sequence[float], n: int) -> float:
  """Expected gold score of the best of n by proxy, from N >= n samples.

    sum_{i=n..N} C(i-1, n-1) / C(N, n) gold_(i),   (i) ascending by proxy

  the mean over all subsets of n, without drawing any; weights by logarithms.
  Equal proxies share the mean of their gold scores: whichever is taken.

  Args:
    proxy: [N], finite.
    gold: [N], finite.
    n: 1 .. N.

  Raises:
    ValueError: shapes differ, n is out of range, or a score is not finite.

  Source: Nakano et al. 2021, arXiv 2112.09332, appendix I; methods.md 2.2.
  """
  proxy, gold = (np.asarray(x, np.float64) for x in (proxy, gold))
  size = len(proxy)
  if proxy.shape != gold.shape or proxy.ndim != 1 or not 1 <= n <= size:
    raise ValueError(f"n={n} of {proxy.shape} proxy, {gold.shape} gold scores")
  if not (np.isfinite(proxy).all() and np.isfinite(gold).all()):
    raise ValueError("a score is not finite: drop and count those first")
  _, place = np.unique(proxy, return_inverse=True)
  shared = np.bincount(place, weights=gold) / np.bincount(place)
  ordered = shared[np.sort(place)]
  weights = [
    math.exp(_log_choose(i - 1, n - 1) - _log_choose(size, n))
    for i in range(n, size + 1)
  ]
  return float(np.dot(weights, ordered[n - 1 :]))


def _log_choose(n: int, k: int) -> float:
  return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


@dataclasses.dataclass(frozen=True)
class Curve:
  """R(d) = d (a - b d) for best of n ("bon"), d (a - b ln d) for RL ("rl").

  Source: Gao et al. 2022, arXiv 2210.10760; methods.md 2.2.
  """

  kind: str
  a: float
  b: float

  def gain(self, distance: Sequence[float]) -> np.ndarray:
    """R at each distance >= 0; 0 at 0."""
    return _features(self.kind, np.asarray(distance, np.float64)) @ np.array(
      [self.a, self.b]
    )

  @property
  def peak(self) -> float:
    """The d > 0 where R is largest: a / (2 b) and exp(a / b - 1).

    Infinite if R grows without end, NaN if it falls from the start.
    """
    if self.b <= 0:
      return math.inf if self.b < 0 or self.a > 0 else math.nan
    if self.kind == "bon":
      return self.a / (2 * self.b) if self.a > 0 else math.nan
    power = self.a / self.b - 1
    return math.exp(power) if power < 700 else math.inf


def fit(distance: Sequence[float], gain: Sequence[float], kind: str) -> Curve:
  """The curve with the least squares; points at d = 0 say nothing, are dropped.

  Args:
    distance: [n] sqrt(KL), >= 0.
    gain: [n] gold reward - that of the start.
    kind: of KINDS.

  Raises:
    ValueError: no such kind, shapes differ, a number is not finite, a distance
      < 0, or fewer than two different distances > 0.
  """
  d, gain = (np.asarray(x, np.float64) for x in (distance, gain))
  if kind not in KINDS or d.shape != gain.shape or d.ndim != 1:
    raise ValueError(f"kind {kind!r}, {d.shape} distances, {gain.shape} gains")
  if not (np.isfinite(d).all() and np.isfinite(gain).all() and (d >= 0).all()):
    raise ValueError("a distance is negative, or a number not finite")
  used = d > 0
  if len(np.unique(d[used])) < 2:
    raise ValueError("a fit needs two different distances > 0")
  (a, b), *_ = np.linalg.lstsq(_features(kind, d[used]), gain[used])
  return Curve(kind, float(a), float(b))


def _features(kind: str, d: np.ndarray) -> np.ndarray:
  """[n, 2] d and -d phi(d); the limit 0 at 0."""
  phi = d if kind == "bon" else np.log(np.where(d > 0, d, 1.0))
  return np.stack([d, -d * phi], -1)


def frontier(distance: Sequence[float], reward: Sequence[float]) -> np.ndarray:
  """bool [n]: no other point is as near and as good, and better in one.

  A point with a NaN is on no frontier.
  """
  d, r = (np.asarray(x, np.float64) for x in (distance, reward))
  as_good = (d[:, None] <= d) & (r[:, None] >= r)  # row against column
  better = (d[:, None] < d) | (r[:, None] > r)
  return ~np.any(as_good & better, 0) & ~np.isnan(d) & ~np.isnan(r)
