"""GRPO done right (Dr. GRPO): no length and no deviation in the scale."""

from xpo_jax import ops, returns
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


def prepare(x: LossInputs, beta: float, kl_loss: str) -> LossInputs:
  """Fills `advantages`: r - group mean."""
  rewards = returns.group_rewards(x, beta, kl_loss)
  return returns.spread(returns.group_centered(rewards, x.present), x)


@registry.register(
  paper="https://arxiv.org/abs/2503.20783",
  completions=(2, None),
  feedback={Feedback.SCORE},
  needs=lambda h: (
    {"advantages", "sampler_logps"} | ({"reference_logps"} if h.beta else set())
  ),
  prepare=prepare,
  limits=dict(
    beta=registry.NONNEGATIVE,
    clip_low=registry.UNIT,
    clip_high=registry.NONNEGATIVE,
    loss_length=registry.POSITIVE,
  ),
  survey=registry.Survey(
    reward_model="explicit",
    reward_form="pointwise",
    reward_level="response",
    negative="scalar",
    feedback="scalar",
    arrangement="list",
    labeler="both",
    reference="optional",
    length_control=True,
    divergence="none",
    policy="on",
    iteration="iterative",
    sft="separate",
  ),
)
def dr_grpo(
  x: LossInputs,
  *,
  beta: float = 0.0,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  kl_loss: returns.KLPlace = "k3",
  loss_length: int = 256,
) -> LossOutput:
  """Sum of GRPO's token loss over (number of samples * loss_length).

  Args:
    x: K >= 2 samples of a prompt, SCORE feedback, after `prepare`.
    beta: weight >= 0 of the KL to the reference; 0 needs no reference.
    clip_low, clip_high: the range of the ratio.
    kl_loss: `k3` or `k2` in the loss, `k1_reward` in the reward. On-policy, k2
      has the gradient of the reverse KL, k3 that of the forward KL.
    loss_length: > 0, the constant in place of a sample's length; take
      data.max_completion_length.

  Returns:
    loss [B], summed over tokens; weight [B]: samples * loss_length.

  Raises:
    XpoError: K = 1, wrong feedback kind, a missing column.

  Reference: Liu et al. 2025, arXiv 2503.20783; methods.md 14.1.
  """
  loss, metrics = returns.group_policy_loss(
    x, beta=beta, clip_low=clip_low, clip_high=clip_high, kl_loss=kl_loss
  )
  total = ops.sequence_sum(loss, x.completion_mask)
  out = ops.per_completion(total, x.present, x.weight, metrics)
  return out._replace(weight=out.weight * loss_length)
