"""Preference ranking optimisation (PRO)."""

import jax.numpy as jnp

from xpo_jax import lists, ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


def _sharpness(scores, order):
  """1 / T [B, K, K]: phi_k - phi_i for i after k, the largest at i = k."""
  gap = jnp.where(order, scores[:, :, None] - scores[:, None, :], 0.0)
  eye = jnp.eye(scores.shape[-1], dtype=bool)[None]
  return jnp.where(eye, jnp.max(gap, axis=-1, keepdims=True), gap)


@registry.register(
  paper="https://arxiv.org/abs/2306.17492",
  completions=(2, None),
  feedback={Feedback.SCORE},
  limits=dict(sft_coef=registry.NONNEGATIVE),
  survey=registry.Survey(
    reward_model="likelihood",
    reward_form="pointwise",
    reward_level="response",
    negative="both",
    feedback="ranks",
    arrangement="list",
    labeler="human",
    reference="no",
    length_control=True,
    divergence="none",
    policy="off",
    iteration="offline",
    sft="merged",
  ),
)
def pro(
  x: LossInputs, *, sft_coef: float = 0.05, temperature: bool = True
) -> LossOutput:
  """sum_k [logsumexp_{i >= k}(A_i / T_k^i) - A_k / T_k^k] + c (n - 1)^2 NLL.

  In order of the scores phi, of equals the lower index first; A is the mean
  log-prob of a completion's tokens, n the number of completions. T_k^i = 1 /
  (phi_k - phi_i) and T_k^k is the smallest of them; a k that has only equals
  after it is left out. Temperatures are constants. No reference.

  Args:
    x: K >= 2, SCORE feedback phi.
    sft_coef: c >= 0; NLL is the sum over the best completion's tokens.
    temperature: False sets all T = 1 (Plackett-Luce on A).

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K or feedback kind.

  Reference: Song et al. 2023, arXiv 2306.17492; methods.md 10.3.
  """
  mask = x.completion_mask
  mean = ops.sequence_mean(x.policy_logps, mask)
  order = lists.ahead(x.feedback, x.present)
  logits = jnp.broadcast_to(mean[:, None, :], order.shape)
  counted = x.present
  if temperature:
    sharpness = _sharpness(x.feedback, order)
    logits = logits * sharpness
    counted = counted & (jnp.max(sharpness, axis=-1) > 0)
  rank = ops.masked_sum(lists.plackett_luce(logits, order), counted)
  best = lists.best_completion(x)
  nll = -ops.sequence_sum(
    lists.pick(x.policy_logps, best), lists.pick(mask, best)
  )
  others = jnp.sum(x.present, axis=-1).astype(rank.dtype) - 1
  metrics = ops.list_metrics(mean, x.policy_logps, mask, x.feedback, x.present)
  metrics["rewards/ranking_loss"] = ops.frozen(rank)
  loss = rank + sft_coef * others**2 * nll
  return ops.per_prompt(loss, x.weight, metrics)
