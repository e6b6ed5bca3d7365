"""DPO with controlled entropy (H-DPO)."""

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2411.07595",
  completions=2,
  feedback={Feedback.ORDER},
  needs={"reference_logps"},
  limits=dict(beta=registry.POSITIVE, alpha=registry.POSITIVE),
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
    divergence="entropy-weighted reverse KL",
    policy="off",
    iteration="offline",
    sft="separate",
  ),
)
def h_dpo(
  x: LossInputs, *, beta: float = 0.1, alpha: float = 0.95
) -> LossOutput:
  """softplus(-beta (alpha (S_w - S_l) - (R_w - R_l))).

  The regulariser is beta (cross-entropy to the reference - alpha entropy);
  alpha = 1 is DPO, alpha < 1 sharpens the policy.

  Args:
    x: K = 2, chosen first.
    beta: pull to the reference, > 0, 1/nats.
    alpha: weight > 0 of the entropy.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind, keyword or missing reference.

  Reference: Omura et al. 2024, arXiv 2411.07595; methods.md 13.2.
  """
  s = ops.sequence_sum(x.policy_logps, x.completion_mask)
  r = ops.sequence_sum(x.reference_logps, x.completion_mask)
  rewards = beta * (alpha * s - r)
  loss = ops.softplus(rewards[:, 1] - rewards[:, 0])
  metrics = ops.pair_metrics(rewards, x.policy_logps, x.completion_mask)
  return ops.per_prompt(loss, x.weight, metrics)
