"""The win rate that would be left if both sides wrote texts of one length.

A logistic regression of the verdicts on the difference of lengths, read off at
difference 0. This is our own form of the idea: one intercept for the pair of
policies, one slope for the length, no term for the difficulty of a prompt.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from xpo_jax.evals.statistics import NORMAL_95, Interval, cluster_index

RIDGE = 0.01
_STEPS, _STOP = 100, 1e-12


class Controlled(NamedTuple):
  """`rate` at equal lengths; `slope` in nats: > 0 where longer texts win."""

  rate: Interval
  slope: float
  n: int


def length_controlled(
  outcomes: Sequence[float],
  gaps: Sequence[float],
  clusters: Sequence[Hashable],
) -> Controlled:
  """sigma(theta) of P(win) = sigma(theta + phi tanh(gap / s)).

  s is the root mean square of the gaps, so that 0 stays 0. theta and phi
  minimise the sum of cross entropies + RIDGE / 2 (theta^2 + phi^2): a small
  pull to 0 that keeps both finite where one side always wins. The interval
  is sigma(theta +- 1.96 se), se from the sandwich H^-1 G H^-1 over clusters
  (CR1); NaN with fewer than two clusters.

  Args:
    outcomes: [n] 1 won, 1/2 tie, 0 lost, or P of winning; NaN: left out.
    gaps: [n] own length - opponent's length, in any unit.
    clusters: [n] "" stands for itself alone.

  Raises:
    ValueError: lengths differ, a gap is not finite, or an outcome is outside
      of [0, 1].

  Reference: the idea is of Dubois et al. 2024, arXiv 2404.04475; clusters as
  in Liang and Zeger 1986. methods.md 15.
  """
  won, gaps = (np.asarray(x, np.float64) for x in (outcomes, gaps))
  if not (won.shape == gaps.shape == (len(clusters),)):
    raise ValueError(f"{won.shape} outcomes, {gaps.shape} gaps")
  known = ~np.isnan(won)
  names = [c for c, k in zip(clusters, known) if k]
  won, gaps = won[known], gaps[known]
  if not np.isfinite(gaps).all() or np.any((won < 0) | (won > 1)):
    raise ValueError("a gap is not finite or an outcome outside of 0 .. 1")
  if not len(won):
    return Controlled(Interval(np.nan, np.nan, np.nan), np.nan, 0)
  scale = np.sqrt(np.mean(gaps**2)) or 1.0
  x = np.stack([np.ones_like(gaps), np.tanh(gaps / scale)], -1)
  weights = _fit(x, won)
  low, high = weights[0] + NORMAL_95 * _error(
    x, won, weights, names
  ) * np.array([-1.0, 1.0])
  rate = Interval(*(float(_sigmoid(v)) for v in (weights[0], low, high)))
  return Controlled(rate, float(weights[1]), len(won))


def _sigmoid(x):
  with np.errstate(invalid="ignore"):  # no interval stays NaN
    return np.exp(-np.logaddexp(0.0, -x))


def _loss(x: np.ndarray, won: np.ndarray, weights: np.ndarray) -> float:
  logits = x @ weights
  nats = np.logaddexp(0.0, logits) - won * logits
  return float(nats.sum() + RIDGE / 2 * weights @ weights)


def _fit(x: np.ndarray, won: np.ndarray) -> np.ndarray:
  """Newton from 0; a step that does not lower the convex loss is halved."""
  weights = np.zeros(x.shape[1])
  for _ in range(_STEPS):
    slope = x.T @ (_sigmoid(x @ weights) - won) + RIDGE * weights
    step = np.linalg.solve(_curvature(x, weights), slope)
    now = _loss(x, won, weights)
    while _loss(x, won, weights - step) > now and np.abs(step).max() > _STOP:
      step = step / 2
    weights = weights - step
    if np.abs(step).max() <= _STOP:
      break
  return weights


def _curvature(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
  p = _sigmoid(x @ weights)
  return (x.T * (p * (1 - p))) @ x + RIDGE * np.eye(x.shape[1])


def _error(x, won, weights, clusters) -> float:
  """Clustered standard error of the intercept."""
  index = cluster_index(clusters)
  groups = int(index.max()) + 1
  if groups < 2:
    return np.nan
  scores = x * (_sigmoid(x @ weights) - won)[:, None]
  sums = np.zeros((groups, x.shape[1]))
  np.add.at(sums, index, scores)
  bread = np.linalg.inv(_curvature(x, weights))
  meat = sums.T @ sums * groups / (groups - 1)
  return float(np.sqrt((bread @ meat @ bread)[0, 0]))
