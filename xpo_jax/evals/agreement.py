"""How far a judge's numbers and people's agree on the same completions.

Every function takes [K] scores of one list, larger is better; means over lists
are the caller's. Cohen's kappa is in label_journal.py.
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np

PERFECT = 5.0  # of the additive judge


class Lists(NamedTuple):
  """Means over lists; NaN where no list says anything."""

  pairwise: float
  exact: float
  spearman: float
  kendall: float
  five_best: float
  lists: int


def labeler_alignment(
  probabilities: Sequence[float], labels: Sequence[float]
) -> np.ndarray:
  """[n] 1[(p > 1/2) == label], 1/2 at p = 1/2; NaN without p or label.

  Args:
    probabilities: P(the first is better) of the judge.
    labels: of people: > 1/2 the first, < 1/2 the second, 1/2 they do not say.

  Source: Lee et al. 2023, arXiv 2309.00267; methods.md 3.2.
  """
  p, label = (np.asarray(x, np.float64) for x in (probabilities, labels))
  same = (p > 0.5) == (label > 0.5)
  found = np.where(p == 0.5, 0.5, same)
  return np.where(np.isnan(p) | np.isnan(label) | (label == 0.5), np.nan, found)


def pairwise_accuracy(judge: Sequence[float], people: Sequence[float]) -> float:
  """Share of pairs that people do not tie in people's order; a judge's tie 1/2.

  NaN if people tie all.
  """
  own, true = _signs(judge), _signs(people)
  told = true != 0
  right = np.where(own == 0, 0.5, own == true)
  return float(right[told].mean()) if told.any() else math.nan


def exact_match(judge: Sequence[float], people: Sequence[float]) -> float:
  """1 if the whole ranking, ties included, is that of people, else 0."""
  return float(np.array_equal(_signs(judge), _signs(people)))


def spearman(judge: Sequence[float], people: Sequence[float]) -> float:
  """Correlation of the ranks, ties with their mean rank; NaN if all tie."""
  ranks = np.stack([_ranks(judge), _ranks(people)])
  ranks = ranks - ranks.mean(1, keepdims=True)
  norm = math.sqrt(float(np.prod((ranks**2).sum(1))))
  return float(ranks[0] @ ranks[1]) / norm if norm else math.nan


def kendall(judge: Sequence[float], people: Sequence[float]) -> float:
  """tau-b = (concordant - discordant) / sqrt(pairs untied in each, multiplied).

  NaN if one side ties all.

  Reference: Kendall, The treatment of ties in ranking problems, 1945.
  """
  own, true = _signs(judge), _signs(people)
  norm = math.sqrt(float(np.sum(own != 0)) * float(np.sum(true != 0)))
  return float(np.sum(own * true)) / norm if norm else math.nan


def five_best(
  judge: Sequence[float], people: Sequence[float], perfect: float = PERFECT
) -> float:
  """Of the completions the judge finds perfect, the share people put first.

  NaN if it finds none perfect.
  """
  judge, people = (np.asarray(x, np.float64) for x in (judge, people))
  chosen = judge >= perfect
  best = people == people.max()
  return float(best[chosen].mean()) if chosen.any() else math.nan


def of_lists(
  judge: Sequence[Sequence[float]], people: Sequence[Sequence[float]]
) -> Lists:
  """All of them over lists; a completion without a judge's number is left out.

  A list with fewer than two numbers is skipped.

  Source: Yuan et al. 2024, arXiv 2401.10020; methods.md 6.1.
  """
  rows = []
  for own, true in zip(judge, people, strict=True):
    own, true = (np.asarray(x, np.float64) for x in (own, true))
    known = np.isfinite(own) & np.isfinite(true)
    if known.sum() >= 2:
      pair = own[known], true[known]
      each = (pairwise_accuracy, exact_match, spearman, kendall, five_best)
      rows.append([f(*pair) for f in each])
  columns = np.array(rows, np.float64).reshape(len(rows), 5).T
  means = [
    float(np.mean(c[~np.isnan(c)])) if (~np.isnan(c)).any() else math.nan
    for c in columns
  ]
  return Lists(*means, len(rows))


def _signs(scores: Sequence[float]) -> np.ndarray:
  """[K (K - 1) / 2] 1, 0 or -1 of every pair."""
  scores = np.asarray(scores, np.float64)
  first, second = np.triu_indices(len(scores), 1)
  return np.sign(scores[first] - scores[second])


def _ranks(scores: Sequence[float]) -> np.ndarray:
  scores = np.asarray(scores, np.float64)
  below = (scores[:, None] > scores).sum(1)
  equal = (scores[:, None] == scores).sum(1)
  return below + (equal + 1) / 2
