"""Generalised preference optimisation (GPO)."""

from typing import Literal

import jax

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput

_LOSSES = {
  "logistic": lambda z: ops.softplus(-z),
  "exponential": lambda z: ops.clipped_exp(-z, ops.WIDE_EXPONENT_LIMIT),
  "hinge": lambda z: jax.nn.relu(1 - z),
  "squared": lambda z: (z - 1) ** 2,
  "truncated_quadratic": lambda z: jax.nn.relu(1 - z) ** 2,
  "savage": lambda z: jax.nn.sigmoid(-z) ** 2,
}


@registry.register(
  paper="https://arxiv.org/abs/2402.05749",
  completions=2,
  feedback={Feedback.ORDER},
  needs={"reference_logps"},
  limits=dict(beta=registry.POSITIVE),
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
def gpo(
  x: LossInputs,
  *,
  beta: float = 0.1,
  f: Literal[
    "logistic",
    "exponential",
    "hinge",
    "squared",
    "truncated_quadratic",
    "savage",
  ] = "logistic",
) -> LossOutput:
  """f(z), z = beta h, h = (S_w - R_w) - (S_l - R_l).

  logistic softplus(-z) (DPO), exponential exp(-z), hinge relu(1 - z), squared
  (z - 1)^2 (IPO times 4 tau^2 with beta = 2 tau), truncated_quadratic
  relu(1 - z)^2, savage sigma(-z)^2. The exponent of exp is clamped to +-80.

  Args:
    x: K = 2, chosen first.
    beta: pull to the reference, > 0, 1/nats. To compare losses, scale it
      so that beta |f'(0)| agrees.
    f: the loss of a binary classifier.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind, keyword or missing reference.

  Reference: Tang et al. 2024, arXiv 2402.05749; methods.md 4.8.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  loss = _LOSSES[f](beta * (u[:, 0] - u[:, 1]))
  metrics = ops.pair_metrics(beta * u, x.policy_logps, x.completion_mask)
  return ops.per_prompt(loss, x.weight, metrics)
