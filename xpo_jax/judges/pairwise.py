"""Pairwise judges: which of two texts, asked in both orders.

A preference model and a language model are the same judge with other words: the
possible answers, each with its terminator, are completions of the question, and
P is the softmax of their log-probs. No reward stands behind P, so cycles (rock,
paper, scissors) can be said.
"""

import collections
from collections.abc import Callable

import numpy as np

from xpo_jax import lists
from xpo_jax.data import comparison
from xpo_jax.data.records import Prompt
from xpo_jax.judges import wording
from xpo_jax.judges.candidates import Ask, Candidates, Judgement, PairJudge

# (prompt, first, second) -> the question that shows them in this order.
Question = Callable[[Prompt, str, str], Prompt]


def preference_model(ask: Ask) -> PairJudge:
  """A model trained by `rm_pairwise`, asked as in its training: A or B?"""
  return make_pair_judge(ask, comparison.question, comparison.ANSWERS)


def language_model(ask: Ask) -> PairJudge:
  """A language model as it is, asked by prompts/pair.txt: 1 or 2?

  Source: Lee et al. 2023, arXiv 2309.00267, section 2; methods.md 3.2.
  """
  question = lambda prompt, first, second: wording.ask(
    "pair", prompt=prompt, first=first, second=second
  )
  return make_pair_judge(ask, question, ("1", "2"))


def make_pair_judge(
  ask: Ask, question: Question, answers: tuple[str, str]
) -> PairJudge:
  """P(i beats j) [B, K, K] = (P(i first) + 1 - P(j first)) / 2.

  Args:
    ask: log-probs of both answers.
    question: shows two texts.
    answers: the one for the first text, the one for the second.

  Returns:
    a judge with the metric judge/position_bias: the share of pairs where the
    same place wins in both orders. The diagonal is 1/2; NaN where a text is
    absent or a log-prob is not a number.
  """

  def judge(candidates: Candidates) -> Judgement:
    places = ordered_pairs(candidates)
    asked = [
      (question(candidates.prompts[b], texts[i], texts[j]), answers)
      for b, i, j in places
      for texts in [candidates.texts[b]]
    ]
    first = np.full((*candidates.shape, candidates.shape[1]), np.nan)
    for (b, i, j), logps in zip(places, ask(asked), strict=True):
      first[b, i, j] = first_answer(logps)
    return judgement(candidates, first)

  return judge


def judgement(
  candidates: Candidates,
  first: np.ndarray,
  reasons: collections.Counter | None = None,
) -> Judgement:
  """A pair judge's answer from P(i beats j | i shown first) [B, K, K].

  Args:
    candidates: what was judged.
    first: NaN where there is no P.
    reasons: of those NaN; by default they are "not_finite".
  """
  wins = symmetrised(first, candidates.present)
  places = ordered_pairs(candidates)
  missing = sum(bool(np.isnan(first[place])) for place in places)
  invalid = collections.Counter(not_finite=missing)
  bias = {"judge/position_bias": position_bias(first)}
  return Judgement(
    wins, len(places), +invalid if reasons is None else reasons, bias
  )


def ordered_pairs(candidates: Candidates) -> list[tuple[int, int, int]]:
  """(b, i, j) of all present i != j, in both orders."""
  both = candidates.present[:, :, None] & candidates.present[:, None, :]
  both &= ~np.eye(both.shape[-1], dtype=bool)
  return [tuple(map(int, place)) for place in np.argwhere(both)]


def first_answer(logps: np.ndarray) -> float:
  """P of the first of two answers, softmax over these two alone."""
  gap = float(logps[1]) - float(logps[0])  # NaN if both are -inf
  return np.nan if np.isnan(gap) else float(np.exp(-np.logaddexp(0.0, gap)))


def symmetrised(first: np.ndarray, present: np.ndarray) -> np.ndarray:
  """P(i beats j) from both orders; 1/2 on the diagonal, NaN if absent."""
  wins = lists.symmetrised(first)
  index = np.arange(first.shape[-1])
  wins[:, index, index] = np.where(present, 0.5, np.nan)
  return wins


def position_bias(first: np.ndarray) -> float:
  """Share of pairs in which the same place wins in both orders; NaN if none.

  Args:
    first: [B, K, K] P(i beats j | i shown first). A P of 1/2 wins nothing.
  """
  upper = np.triu_indices(first.shape[-1], 1)
  one, two = first[:, *upper], np.swapaxes(first, 1, 2)[:, *upper]
  known = np.isfinite(one) & np.isfinite(two)
  same = ((one > 0.5) & (two > 0.5)) | ((one < 0.5) & (two < 0.5))
  return float(same[known].mean()) if known.any() else float("nan")
