"""Noise contrastive alignment (NCA)."""

import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2402.05369",
  completions=(2, None),
  feedback={Feedback.ORDER, Feedback.SCORE},
  needs={"reference_logps"},
  limits=dict(beta=registry.POSITIVE, alpha=registry.POSITIVE),
  survey=registry.Survey(
    reward_model="implicit",
    reward_form="pointwise",
    reward_level="response",
    negative="both",
    feedback="preference",
    arrangement="list",
    labeler="ai",
    reference="yes",
    length_control=False,
    divergence="reverse KL",
    policy="off",
    iteration="offline",
    sft="separate",
  ),
)
def nca(
  x: LossInputs, *, beta: float = 0.01, alpha: float = 1e-3
) -> LossOutput:
  """-sum_i (w_i log sigma(s_i) + (1/K) log sigma(-s_i)), s = beta (S - R).

  w = softmax(score / alpha), or (1, 0) for a pair with ORDER feedback. Least
  at s_i = log(K w_i): absolute values, so the chosen one does not sink.

  Args:
    x: ORDER pairs, chosen first, or lists of K >= 2 with SCORE feedback.
    beta: pull to the reference, > 0, 1/nats.
    alpha: temperature > 0 of the scores; SCORE only. The default is for scores
      of 0 to 10 and practically one-hot.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind, keyword or missing reference.

  Reference: Chen et al. 2024, arXiv 2402.05369; methods.md 14.7.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  if x.feedback_kind is Feedback.ORDER:
    ops.check_pair(x, "nca")
    target = x.feedback
  else:
    target = jnp.exp(ops.masked_log_softmax(x.feedback / alpha, x.present))
  s = beta * u
  count = jnp.maximum(jnp.sum(x.present, axis=-1, keepdims=True), 1)
  each = target * ops.softplus(-s) + ops.softplus(s) / count.astype(s.dtype)
  loss = ops.masked_sum(each, x.present)
  metrics = ops.list_metrics(
    s, x.policy_logps, x.completion_mask, x.feedback, x.present
  )
  return ops.per_prompt(loss, x.weight, metrics)
