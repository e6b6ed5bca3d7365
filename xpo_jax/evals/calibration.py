"""Does sigma(r_w - r_l) say how often the reward model is right?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BINS = 5


class Bin(NamedTuple):
  """Pairs whose confidence is in [low, high), the last one with its end."""

  low: float
  high: float
  n: int
  confidence: float  # mean of sigma(|margin|); NaN if empty
  accuracy: float  # share ranked as people did, ties 1/2; NaN if empty


def bins(margins: Sequence[float], count: int = BINS) -> list[Bin]:
  """Equal bins of the confidence sigma(|r_w - r_l|) over [1/2, 1].

  Args:
    margins: [n] r_w - r_l, w what people prefer; finite.
    count: of bins.

  Raises:
    ValueError: a margin is not finite.
  """
  margins = _finite(margins)
  confidence = _sigmoid(np.abs(margins))
  right = (margins > 0) + 0.5 * (margins == 0)
  place = np.minimum(((confidence - 0.5) * 2 * count).astype(int), count - 1)
  edges = np.linspace(0.5, 1.0, count + 1)
  out = []
  for k in range(count):
    own = place == k
    n = int(own.sum())
    mean = lambda x, own=own, n=n: float(x[own].mean()) if n else np.nan
    row = Bin(
      float(edges[k]), float(edges[k + 1]), n, mean(confidence), mean(right)
    )
    out.append(row)
  return out


def expected_error(margins: Sequence[float], count: int = BINS) -> float:
  """ECE = sum over bins of n_b / n |accuracy_b - confidence_b|; NaN if empty.

  Reference: Guo et al. 2017, arXiv 1706.04599.
  """
  rows = [row for row in bins(margins, count) if row.n]
  total = sum(row.n for row in rows)
  gaps = (row.n * abs(row.accuracy - row.confidence) for row in rows)
  return sum(gaps) / total if total else np.nan


def brier(
  margins: Sequence[float], labels: Sequence[float] | None = None
) -> float:
  """Mean (sigma(margin) - label)^2; NaN if empty. A coin has 1/4.

  Args:
    margins: [n] finite.
    labels: [n] share of people for the first; None: all 1.

  Reference: Brier, Verification of forecasts expressed in terms of
  probability, 1950.
  """
  margins = _finite(margins)
  labels = np.ones_like(margins) if labels is None else np.asarray(labels)
  if labels.shape != margins.shape:
    raise ValueError(f"{margins.shape} margins, {labels.shape} labels")
  return (
    float(np.mean((_sigmoid(margins) - labels) ** 2))
    if len(margins)
    else np.nan
  )


def _sigmoid(x: np.ndarray) -> np.ndarray:
  return np.exp(-np.logaddexp(0.0, -x))


def _finite(margins: Sequence[float]) -> np.ndarray:
  margins = np.asarray(margins, np.float64)
  if not np.isfinite(margins).all():
    raise ValueError("a margin is not finite: drop and count those first")
  return margins
