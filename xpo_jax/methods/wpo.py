"""Weighted preference optimisation (WPO)."""

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2406.11827",
  completions=2,
  feedback={Feedback.ORDER},
  needs={"reference_logps", "log_collision"},
  limits=dict(beta=registry.POSITIVE),
  survey=registry.Survey(
    reward_model="implicit",
    reward_form="pointwise",
    reward_level="response",
    negative="both",
    feedback="preference",
    arrangement="pair",
    labeler="both",
    reference="yes",
    length_control=False,
    divergence="reverse KL",
    policy="off",
    iteration="offline",
    sft="separate",
  ),
)
def wpo(x: LossInputs, *, beta: float = 0.01) -> LossOutput:
  """w_w w_l softplus(-beta h), h = (S_w - R_w) - (S_l - R_l).

  w = exp of the mean over tokens of log p(y_t) - log sum_v p(v)^2: how likely
  the policy finds the completion against what it samples itself (sampled
  alignment). No gradient flows through w; its exponent is clamped to +-20.

  Args:
    x: K = 2, chosen first, with `log_collision` [B, 2, T].
    beta: pull to the reference, > 0, 1/nats.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind, keyword or missing reference.

  Reference: Zhou et al. 2024, arXiv 2406.11827; methods.md 14.12.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  surprise = x.policy_logps - x.log_collision
  mean = ops.sequence_mean(ops.frozen(surprise), x.completion_mask)
  w = ops.clipped_exp(mean)
  loss = w[:, 0] * w[:, 1] * ops.softplus(-beta * (u[:, 0] - u[:, 1]))
  metrics = ops.pair_metrics(beta * u, x.policy_logps, x.completion_mask)
  metrics["weights/chosen"] = w[:, 0]
  metrics["weights/rejected"] = w[:, 1]
  return ops.per_prompt(loss, x.weight, metrics)
