"""Decoupled clip and dynamic sampling policy optimisation (DAPO)."""

from typing import Literal

from xpo_jax import ops, returns
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2503.14476",
  completions=(2, None),
  feedback={Feedback.SCORE},
  needs=lambda h: (
    {"advantages", "sampler_logps"} | ({"reference_logps"} if h.beta else set())
  ),
  prepare=returns.prepare_groups,
  limits=dict(
    beta=registry.NONNEGATIVE,
    clip_low=registry.UNIT,
    clip_high=registry.NONNEGATIVE,
    std_eps=registry.POSITIVE,
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
    divergence="reverse KL",
    policy="on",
    iteration="iterative",
    sft="separate",
  ),
)
def dapo(
  x: LossInputs,
  *,
  beta: float = 0.0,
  clip_low: float = 0.2,
  clip_high: float = 0.28,
  kl_loss: returns.KLPlace = "k3",
  std_eps: float = 1e-4,
  std_ddof: Literal[0, 1] = 1,
) -> LossOutput:
  """GRPO's token loss, a higher upper clip, one mean over all batch tokens.

  Dynamic sampling (dropping prompts whose rewards are all equal) and the
  penalty for overlong samples belong to the rollout.

  Args:
    x: K >= 2 samples of a prompt, SCORE feedback, after `prepare`.
    beta: weight >= 0 of the KL to the reference; 0 needs no reference.
    clip_low, clip_high: the range of the ratio.
    kl_loss: `k3` or `k2` in the loss, `k1_reward` in the reward. On-policy, k2
      has the gradient of the reverse KL, k3 that of the forward KL.
    std_eps: > 0, added to the standard deviation of a group.
    std_ddof: 1 divides its variance by n - 1, 0 by n (the paper is silent).

  Returns:
    loss [B], summed over tokens; weight [B]: number of tokens.

  Raises:
    XpoError: K = 1, wrong feedback kind, a missing column.

  Reference: Yu et al. 2025, arXiv 2503.14476; methods.md 14.1.
  """
  loss, metrics = returns.group_policy_loss(
    x, beta=beta, clip_low=clip_low, clip_high=clip_high, kl_loss=kl_loss
  )
  return ops.per_token(loss, ops.live_tokens(x), x.weight, metrics)
