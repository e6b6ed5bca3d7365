"""Distributional dispreference optimisation (D2O): rejected texts only."""

import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2403.03419",
  completions=(2, None),
  feedback={Feedback.BINARY},
  needs={"reference_logps"},
  limits=dict(beta=registry.POSITIVE, alpha=registry.POSITIVE),
  survey=registry.Survey(
    reward_model="implicit",
    reward_form="pointwise",
    reward_level="response",
    negative="negative",
    feedback="binary",
    arrangement="list",
    labeler="human",
    reference="yes",
    length_control=False,
    divergence="reverse KL",
    policy="mixed",
    iteration="iterative",
    sft="separate",
  ),
)
def d2o(x: LossInputs, *, beta: float = 0.1, alpha: float = 0.1) -> LossOutput:
  """softplus(-(beta mean_k u(y_k) - alpha u(y_l))), y_k self samples.

  Args:
    x: K self samples (feedback +1, the paper has K = 11), then the rejected
      completion (-1). `reference_logps` may come from two references: the
      reward-bad one for the samples, the reward-good one for the rejected;
      both are the SFT model at first. Absent samples leave the mean.
    beta: > 0, weight of the samples, 1/nats.
    alpha: > 0, weight of the rejected, 1/nats.

  Returns:
    loss [B] in nats; weight [B], 0 where either side is absent.

  Raises:
    XpoError: wrong K or feedback kind, no reference.

  Reference: Duan et al. 2024, arXiv 2403.03419; methods.md 11.1.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  own = beta * ops.row_mean(u[:, :-1], x.present[:, :-1])
  rejected = alpha * u[:, -1]
  both = jnp.any(x.present[:, :-1], axis=-1) & x.present[:, -1]
  weight = jnp.where(both, x.weight, 0.0)
  metrics = ops.reward_metrics(jnp.stack([own, rejected], axis=-1))
  return ops.per_prompt(ops.softplus(rejected - own), weight, metrics)
