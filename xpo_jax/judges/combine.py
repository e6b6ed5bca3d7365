"""Judges out of judges: sums, win rates, and rewards out of preferences."""

import collections
from collections.abc import Sequence

import numpy as np

from xpo_jax.judges.candidates import Candidates, Judge, Judgement, PairJudge

_SURE = 1e-6  # P is kept this far from 0 and 1 before a logit


def weighted(parts: Sequence[tuple[float, Judge]]) -> Judge:
  """sum_i w_i r_i; NaN where one of the judges has no number."""

  def judge(candidates: Candidates) -> Judgement:
    found = [own(candidates) for _, own in parts]
    scores = sum(w * f.scores for (w, _), f in zip(parts, found, strict=True))
    metrics = {name: v for f in found for name, v in f.metrics.items()}
    return _merged(scores, found, metrics)

  return judge


def win_rates(pair_judge: PairJudge) -> Judge:
  """Mean over all present opponents, itself (1/2) among them, of P(k beats j).

  Pairs without a P are left out; NaN where none is left but itself.

  Source: Wu et al. 2024, arXiv 2405.00675, section 4 (methods.md 12.2).
  """

  def judge(candidates: Candidates) -> Judgement:
    found = pair_judge(candidates)
    return found._replace(scores=mean_wins(found.scores))

  return judge


def mean_wins(wins: np.ndarray) -> np.ndarray:
  """[B, K, K] -> [B, K]; see `win_rates`. K = 1 alone is 1/2, if present."""
  known = np.isfinite(wins)
  count = known.sum(-1)
  total = np.where(known, wins, 0.0).sum(-1)
  alone = count <= int(wins.shape[-1] > 1)
  return np.where(alone, np.nan, total / np.maximum(count, 1))


def bradley_terry(judge: Judge, scale: float = 1.0) -> PairJudge:
  """P(i beats j) = sigma(scale (r_i - r_j)): always transitive."""

  def pair_judge(candidates: Candidates) -> Judgement:
    found = judge(candidates)
    r = found.scores * scale
    gap = r[:, :, None] - r[:, None, :]
    with np.errstate(invalid="ignore"):  # NaN stays NaN
      wins = np.exp(-np.logaddexp(0.0, -gap))
    return found._replace(scores=wins)

  return pair_judge


def reward_from_pairs(pair_judge: PairJudge) -> Judge:
  """r(y) = logit P(y beats y_b), P kept in [1e-6, 1 - 1e-6] (RSO).

  y_b is the first present completion of its prompt, with reward 0. Only the
  pairs with y_b are asked: 2 (K - 1) questions a prompt of K.

  Source: Liu et al. 2023, arXiv 2309.06657; methods.md 1.4.
  """

  def judge(candidates: Candidates) -> Judgement:
    scores = np.full(candidates.shape, np.nan)
    base = candidates.present.argmax(1)  # [B]; 0 where none is present
    places = [(b, k) for b, k in candidates.places() if k != base[b]]
    here = np.flatnonzero(candidates.present.any(1))
    scores[here, base[here]] = 0.0
    if not places:
      return Judgement(scores, 0, collections.Counter())
    pick = lambda x: np.array([[x[b, k], x[b, base[b]]] for b, k in places])
    texts = candidates.texts
    pairs = Candidates(
      prompts=tuple(candidates.prompts[b] for b, _ in places),
      texts=tuple((texts[b][k], texts[b][base[b]]) for b, k in places),
      present=pick(candidates.present),
      ended=pick(candidates.ended),
    )
    found = pair_judge(pairs)
    p = np.clip(found.scores[:, 0, 1], _SURE, 1 - _SURE)
    for place, own in zip(places, np.log(p) - np.log1p(-p), strict=True):
      scores[place] = own
    return found._replace(scores=scores)

  return judge


def _merged(scores, found: Sequence[Judgement], metrics) -> Judgement:
  invalid = sum((f.invalid for f in found), collections.Counter())
  return Judgement(scores, sum(f.asked for f in found), invalid, metrics)
