"""DPO that is unbiased under flipped labels (robust DPO)."""

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2403.00409",
  completions=2,
  feedback={Feedback.ORDER},
  needs={"reference_logps"},
  limits=dict(beta=registry.POSITIVE, label_smoothing=registry.SMOOTHING),
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
def robust_dpo(
  x: LossInputs, *, beta: float = 0.1, label_smoothing: float = 0.1
) -> LossOutput:
  """((1 - e) softplus(-z) - e softplus(z)) / (1 - 2e), z = beta h.

  Its mean over labels flipped with probability e is DPO's loss. Not bounded
  below: as h grows it tends to -e z / (1 - 2e), so clip gradients.

  Args:
    x: K = 2, chosen first.
    beta: pull to the reference, > 0, 1/nats.
    label_smoothing: the flip rate e in [0, 0.5); 0 = DPO.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind, keyword or missing reference.

  Reference: Ray Chowdhury et al. 2024, arXiv 2403.00409; methods.md 14.5.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  z = beta * (u[:, 0] - u[:, 1])
  e = label_smoothing
  loss = ((1 - e) * ops.softplus(-z) - e * ops.softplus(z)) / (1 - 2 * e)
  metrics = ops.pair_metrics(beta * u, x.policy_logps, x.completion_mask)
  return ops.per_prompt(loss, x.weight, metrics)
