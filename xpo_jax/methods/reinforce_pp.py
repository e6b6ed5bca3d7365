"""REINFORCE++: token rewards to go, normalised over the whole batch."""

import jax.numpy as jnp

from xpo_jax import ops, returns
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


def prepare(
  x: LossInputs, kl_coef: float, kl_kind: str, gamma: float
) -> LossInputs:
  """Fills `advantages`: whitened discounted sums of the token rewards.

  The reward is -kl_coef * KL of sampler and reference at each token, plus the
  score at the last; mean and variance run over all tokens of the rollout.
  """
  mask = ops.live_tokens(x)
  rewards = returns.score_at_end(x.feedback, mask)
  if kl_coef:
    rewards = rewards - kl_coef * returns.sampled_kl(x, kl_kind)
  to_go = returns.gae(rewards, jnp.zeros_like(rewards), mask, gamma, 1.0)
  return x.replace(
    advantages=returns.whiten(to_go, mask, floor=returns.VARIANCE_EPS)
  )


@registry.register(
  paper="https://arxiv.org/abs/2501.03262",
  completions=(1, None),
  feedback={Feedback.SCORE},
  needs=lambda h: (
    {"advantages", "sampler_logps"}
    | ({"reference_logps"} if h.kl_coef else set())
  ),
  prepare=prepare,
  prepare_needs=lambda h: returns.exact_kl(h.kl_kind) if h.kl_coef else set(),
  limits=dict(
    kl_coef=registry.NONNEGATIVE,
    clip_low=registry.UNIT,
    clip_high=registry.NONNEGATIVE,
    gamma=registry.UNIT,
  ),
  survey=registry.Survey(
    reward_model="explicit",
    reward_form="pointwise",
    reward_level="response",
    negative="scalar",
    feedback="scalar",
    arrangement="one",
    labeler="both",
    reference="yes",
    length_control=False,
    divergence="reverse KL",
    policy="on",
    iteration="iterative",
    sft="separate",
  ),
)
def reinforce_pp(
  x: LossInputs,
  *,
  kl_coef: float = 0.01,
  kl_kind: returns.KLReward = "k1",
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  gamma: float = 1.0,
) -> LossOutput:
  """Token mean of max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high)).

  rho = exp(logp - sampler's logp), clamped at e^+-20. No value model.

  Args:
    x: K >= 1 samples, SCORE feedback, after `prepare`.
    kl_coef: beta >= 0 of the KL in the reward; 0 needs no reference.
    kl_kind: k1, k2, k3: its estimator; reverse, forward, js: exact.
    clip_low, clip_high: the range of the ratio.
    gamma: discount in [0, 1].

  Returns:
    loss [B], summed over tokens; weight [B]: number of tokens.

  Raises:
    XpoError: wrong feedback kind, a missing column.

  Reference: Hu 2025, arXiv 2501.03262; methods.md 14.2.
  """
  logratio = x.policy_logps - x.sampler_logps
  loss, clipped = returns.clipped_surrogate(
    logratio, x.advantages, clip_low, clip_high
  )
  metrics = returns.policy_metrics(x, logratio, clipped)
  return ops.per_token(loss, ops.live_tokens(x), x.weight, metrics)
