"""Simple preference optimisation (SimPO)."""

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2405.14734",
  completions=2,
  feedback={Feedback.ORDER},
  limits=dict(
    beta=registry.POSITIVE,
    gamma_beta_ratio=registry.NONNEGATIVE,
    label_smoothing=registry.SMOOTHING,
    nll_coef=registry.NONNEGATIVE,
  ),
  survey=registry.Survey(
    reward_model="likelihood",
    reward_form="pointwise",
    reward_level="response",
    negative="both",
    feedback="preference",
    arrangement="pair",
    labeler="ai",
    reference="no",
    length_control=True,
    divergence="none",
    policy="off",
    iteration="offline",
    sft="separate",
  ),
)
def simpo(
  x: LossInputs,
  *,
  beta: float = 2.0,
  gamma_beta_ratio: float = 0.5,
  label_smoothing: float = 0.0,
  nll_coef: float = 0.0,
) -> LossOutput:
  """softplus(-z), z = beta (A_w - A_l) - gamma, A = S / N, without reference.

  With smoothing e: (1 - e) softplus(-z) + e softplus(z); plus nll_coef (-A_w).

  Args:
    x: K = 2, chosen first.
    beta: scale > 0 of the average log-probs, 1/nats.
    gamma_beta_ratio: gamma / beta >= 0, the wanted gap in nats a token.
    label_smoothing: e in [0, 0.5).
    nll_coef: weight >= 0 of the chosen completion's mean NLL.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind or keyword, or a reference is given.

  Reference: Meng et al. 2024, arXiv 2405.14734, eq. 6; methods.md 9.2.
  """
  mean_logps = ops.sequence_mean(x.policy_logps, x.completion_mask)
  gap = mean_logps[:, 0] - mean_logps[:, 1]
  z = beta * (gap - gamma_beta_ratio)
  e = label_smoothing
  loss = (1 - e) * ops.softplus(-z) + e * ops.softplus(z)
  loss = loss - nll_coef * mean_logps[:, 0]
  metrics = ops.pair_metrics(
    beta * mean_logps, x.policy_logps, x.completion_mask
  )
  return ops.per_prompt(loss, x.weight, metrics)
