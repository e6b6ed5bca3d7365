"""Win rates out of judged pairs: ties 1/2, both orders, intervals, Elo."""

from collections.abc import Hashable, Sequence
import math
from typing import NamedTuple

import numpy as np

from xpo_jax.evals import statistics
from xpo_jax.evals.statistics import Interval

ELO = 400 / math.log(10)  # points a nat: 173.7177927613


class Rate(NamedTuple):
  """A win rate: its 95% interval, and what it was counted from."""

  rate: Interval
  n: int  # pairs with a verdict
  ties: int
  invalid: int  # pairs without one, left out


def of_matrices(wins: np.ndarray, one: int = 0, other: int = 1) -> np.ndarray:
  """[n] P(one beats other), the mean of both orders.

    (P[one, other] + 1 - P[other, one]) / 2

  Args:
    wins: [n, K, K], P(row beats column), as asked with the row shown first or
      already the mean of both orders; NaN where there is no answer.
    one: place of the completion that is to win.
    other: place of its opponent.
  """
  wins = np.asarray(wins, np.float64)
  return (wins[:, one, other] + 1 - wins[:, other, one]) / 2


def verdicts(probabilities: Sequence[float]) -> np.ndarray:
  """[n] 1 where P > 1/2, 1/2 at 1/2, 0 below; NaN stays NaN."""
  p = np.asarray(probabilities, np.float64)
  return np.where(np.isnan(p), np.nan, (p > 0.5) + 0.5 * (p == 0.5))


def win_rate(
  outcomes: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> Rate:
  """The mean outcome with a 95% Wilson interval.

  Pairs of one cluster are not independent: with clusters, the interval is that
  of n_eff = min(n, rate (1 - rate) / se^2) trials, se the clustered standard
  error, and of one trial a cluster where se says nothing (all outcomes equal).

  Args:
    outcomes: [n] 1 won, 1/2 tie, 0 lost (or a P of winning); NaN no verdict.
    clusters: [n], "" stands for itself alone; None: all pairs independent.

  Raises:
    ValueError: an outcome outside of [0, 1], or lengths differ.

  Reference: Wilson 1927; the effective sample size as in Korn and Graubard,
  Confidence intervals for proportions with small expected number of positive
  counts estimated from survey data, 1998.
  """
  outcomes = np.asarray(outcomes, np.float64)
  known = ~np.isnan(outcomes)
  kept = outcomes[known]
  if np.any((kept < 0) | (kept > 1)):
    raise ValueError("an outcome is outside of 0 .. 1")
  trials = float(len(kept))
  if clusters is not None and len(kept):
    names = [c for c, k in zip(clusters, known, strict=True) if k]
    trials = _effective(kept, names)
  mean = float(kept.mean()) if len(kept) else 0.0
  return Rate(
    statistics.wilson(mean * trials, trials),
    len(kept),
    int(np.sum(kept == 0.5)),
    int(np.sum(~known)),
  )


def _effective(outcomes: np.ndarray, clusters: Sequence[Hashable]) -> float:
  found = statistics.clustered_mean(outcomes, clusters)
  spread = found.mean * (1 - found.mean)
  if not (spread > 0 and found.se > 0):
    return float(found.clusters)
  return float(min(found.n, spread / found.se**2))


def elo(gap: float) -> float:
  """Elo points of a reward gap in nats, P(win) = sigma(gap): 400 / ln 10 gap.

  Source: Bai et al. 2022, arXiv 2204.05862; methods.md 2.2.
  """
  return ELO * gap


def elo_of_rate(rate: float) -> float:
  """Elo points that a win rate stands for; infinite at 0 and 1."""
  if not 0 < rate < 1:
    return math.nan if math.isnan(rate) else math.copysign(math.inf, rate - 0.5)
  return elo(math.log(rate) - math.log1p(-rate))
