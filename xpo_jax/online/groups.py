"""Judged samples -> the groups of tokens that the loss learns from.

A prompt that has nothing to teach is None: an empty place of its batch.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from xpo_jax.data.records import TokenGroup
from xpo_jax.online.draw import Drawn
from xpo_jax.rollout import select
from xpo_jax.types import Feedback

Groups = list[TokenGroup | None]


def keep_all(
  prompts: Sequence[TokenGroup], drawn: Drawn, feedback: np.ndarray
) -> Groups:
  """All samples with their scores; one without a score is absent."""
  return _own(prompts, drawn, feedback, Feedback.SCORE)


def against(
  prompts: Sequence[TokenGroup], drawn: Drawn, wins: np.ndarray
) -> Groups:
  """All samples with their probabilities of beating the opponent's."""
  return _own(prompts, drawn, wins, Feedback.PROBABILITY)


def against_pair(
  prompts: Sequence[TokenGroup],
  drawn: Drawn,
  other: Drawn,
  wins: np.ndarray,
  same: np.ndarray,
) -> Groups:
  """(the policy's sample, the opponent's) with [P, 1 - P]; K = 1 each.

  None where both are the same text: there is nothing to compare, and XPO would
  only push it down. The opponent's has no log-probs of the policy's sampler:
  NaN.

  Args:
    prompts: B.
    drawn: of the policy.
    other: of the opponent.
    wins: [B, 1] P(the policy's beats the opponent's), NaN: no verdict.
    same: bool [B], the two texts are the same.

  Source: methods.md 14.4 and 14.13.
  """
  other = other._replace(logps=np.full_like(other.logps, np.nan))
  out = []
  for b, prompt in enumerate(prompts):
    p = float(wins[b, 0])
    pair = [(drawn, b, 0), (other, b, 0)]
    made = _group(prompt, pair, (p, 1 - p), Feedback.PROBABILITY)
    out.append(made if np.isfinite(p) and not same[b] else None)
  return out


def best_worst(
  prompts: Sequence[TokenGroup],
  drawn: Drawn,
  scores: np.ndarray,
  texts: Sequence[Sequence[str]],
) -> Groups:
  """(highest score, lowest score) of different texts; None if all are equal.

  With the first as the winner of a tie (methods.md 14.4) the gradient would be
  noise around 0, as both are draws of one policy; `judge/equal` counts ties.
  """
  valid = select.first_occurrences(texts, np.isfinite(scores))
  found = select.best_worst(jnp.asarray(scores, jnp.float32), valid)
  index, kept = np.asarray(found.index[:, 0]), np.asarray(found.kept[:, 0, 0])
  out = []
  for b, prompt in enumerate(prompts):
    pair = [(drawn, b, k) for k in index[b]]
    made = _group(prompt, pair, (1.0, 0.0), Feedback.ORDER)
    out.append(made if kept[b] else None)
  return out


def _own(prompts, drawn: Drawn, feedback, kind) -> Groups:
  out = []
  for b, prompt in enumerate(prompts):
    own = [float(f) for f in feedback[b]]
    picked = [
      (drawn, b, k) if np.isfinite(f) else None for k, f in enumerate(own)
    ]
    values = [f if np.isfinite(f) else 0.0 for f in own]
    some = any(np.isfinite(own))
    out.append(_group(prompt, picked, values, kind) if some else None)
  return out


def _group(prompt: TokenGroup, picked, feedback, kind) -> TokenGroup:
  """`picked`: (samples, b, k) of every completion, None for an absent one."""
  none = np.zeros(0, np.int32)
  ids = lambda p: p[0].ids(p[1], p[2]) if p else none
  logps = lambda p: (
    p[0].logps[p[1], p[2]][p[0].mask[p[1], p[2]]] if p else none.astype("f4")
  )
  return TokenGroup(
    id=prompt.id,
    cluster=prompt.cluster,
    prompt=prompt.prompt,
    completions=tuple(ids(p) for p in picked),
    ended=tuple(bool(p and p[0].ended[p[1], p[2]]) for p in picked),
    feedback=tuple(float(f) for f in feedback),
    kind=kind,
    columns={"sampler_logps": tuple(logps(p) for p in picked)},
  )
