"""A language model's rating, as an expectation over the ten possible ones."""

import collections

import numpy as np

from xpo_jax.judges import wording
from xpo_jax.judges.candidates import Ask, Candidates, Judge, Judgement

RATINGS = tuple(str(n) for n in range(1, 11))


def language_model(ask: Ask) -> Judge:
  """(E[rating] - 5.5) / 4.5 in [-1, 1], asked by prompts/rating.txt.

  Source: Lee et al. 2023, arXiv 2309.00267, section 2.3 (d-RLAIF); methods.md
  3.2.
  """

  def judge(candidates: Candidates) -> Judgement:
    places = candidates.places()
    asked = [
      (
        wording.ask(
          "rating", prompt=candidates.prompts[b], answer=candidates.texts[b][k]
        ),
        RATINGS,
      )
      for b, k in places
    ]
    scores = np.full(candidates.shape, np.nan)
    for place, logps in zip(places, ask(asked), strict=True):
      scores[place] = expected_rating(logps)
    missing = sum(bool(np.isnan(scores[place])) for place in places)
    invalid = +collections.Counter(not_finite=missing)
    return Judgement(scores, len(places), invalid)

  return judge


def expected_rating(logps: np.ndarray) -> float:
  """[10] log-probs of "1" .. "10" -> (sum_i i P(i) - 5.5) / 4.5.

  P is normalised over the ten; NaN if a log-prob is NaN or all are -inf.
  """
  logps = np.asarray(logps, np.float64)
  highest = logps.max()
  if not np.isfinite(highest):
    return float("nan")
  p = np.exp(logps - highest)
  mean = np.sum(p * np.arange(1, 11)) / p.sum()
  return float((mean - 5.5) / 4.5)
