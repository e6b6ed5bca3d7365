"""Efficient exact optimisation (EXO)."""

import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2402.00856",
  completions=(2, None),
  feedback={Feedback.ORDER, Feedback.SCORE},
  needs={"reference_logps"},
  limits=dict(
    beta=registry.POSITIVE,
    eps=registry.Limit(lambda v: 0 < v < 0.5, "must be in (0, 0.5)"),
    beta_r=registry.POSITIVE,
  ),
  survey=registry.Survey(
    reward_model="implicit",
    reward_form="pointwise",
    reward_level="response",
    negative="both",
    feedback="preference",
    arrangement="list",
    labeler="both",
    reference="yes",
    length_control=False,
    divergence="reverse KL in probability space",
    policy="off",
    iteration="offline",
    sft="separate",
  ),
)
def exo(
  x: LossInputs, *, beta: float = 0.1, eps: float = 1e-3, beta_r: float = 0.1
) -> LossOutput:
  """KL(q || p), q = softmax(beta u), p = softmax(score / beta_r), u = S - R.

  A pair with ORDER feedback has p = (1 - eps, eps). The gradient flows through
  both factors q; it vanishes where q is one-hot, so a badly wrong start barely
  moves.

  Args:
    x: ORDER pairs, chosen first, or lists of K >= 2 with SCORE feedback.
    beta: pull to the reference, > 0, 1/nats.
    eps: the rejected completion's target probability, in (0, 0.5); ORDER only.
    beta_r: temperature > 0 of the scores; SCORE only.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind, keyword or missing reference.

  Reference: Ji et al. 2024, arXiv 2402.00856; methods.md 14.6.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  if x.feedback_kind is Feedback.ORDER:
    ops.check_pair(x, "exo")
    target = jnp.log(jnp.where(x.feedback > 0, 1 - eps, eps).astype(u.dtype))
  else:
    target = ops.masked_log_softmax(x.feedback / beta_r, x.present)
  log_q = ops.masked_log_softmax(beta * u, x.present)
  loss = ops.masked_sum(jnp.exp(log_q) * (log_q - target), x.present)
  metrics = ops.list_metrics(
    beta * u, x.policy_logps, x.completion_mask, x.feedback, x.present
  )
  return ops.per_prompt(loss, x.weight, metrics)
