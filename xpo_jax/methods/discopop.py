"""Discovered preference optimisation (DiscoPOP)."""

import jax

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2406.08414",
  completions=2,
  feedback={Feedback.ORDER},
  needs={"reference_logps"},
  limits=dict(beta=registry.POSITIVE, tau=registry.POSITIVE),
  survey=registry.Survey(
    reward_model="implicit",
    reward_form="pointwise",
    reward_level="response",
    negative="both",
    feedback="preference",
    arrangement="pair",
    labeler="human",
    reference="yes",
    length_control=False,
    divergence="reverse KL",
    policy="off",
    iteration="offline",
    sft="separate",
  ),
)
def discopop(
  x: LossInputs, *, beta: float = 0.05, tau: float = 0.05
) -> LossOutput:
  """(1 - g) softplus(-z) + g exp(-z), z = beta h, g = sigma(z / tau).

  Logistic for z < 0, exponential for z > 0, with a blend of width tau; the
  gradient flows through g too. Not convex: at tau = 0.05 there is a local
  minimum at z = -0.119. The exponent of exp is clamped to +-80.

  Args:
    x: K = 2, chosen first.
    beta: pull to the reference, > 0, 1/nats.
    tau: width > 0 of the blend.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind, keyword or missing reference.

  Reference: Lu et al. 2024, arXiv 2406.08414; methods.md 14.11.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  z = beta * (u[:, 0] - u[:, 1])
  exponential = ops.clipped_exp(-z, ops.WIDE_EXPONENT_LIMIT)
  logistic = ops.softplus(-z)
  gate = jax.nn.sigmoid(z / tau)
  loss = (1 - gate) * logistic + gate * exponential
  metrics = ops.pair_metrics(beta * u, x.policy_logps, x.completion_mask)
  return ops.per_prompt(loss, x.weight, metrics)
