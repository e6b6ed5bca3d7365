"""Proximal policy optimisation with a value head and KL reward (PPO-RLHF)."""

import jax.numpy as jnp

from xpo_jax import ops, returns
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput

DUAL = registry.Limit(lambda v: v == 0 or v > 1, "must be 0 (off) or > 1")


def prepare(
  x: LossInputs, kl_coef: float, kl_kind: str, gamma: float, gae_lambda: float
) -> LossInputs:
  """Fills `advantages` (whitened GAE) and `token_feedback` (returns).

  Token reward: -kl_coef * KL estimate of sampler and reference, plus the score
  `feedback` at the last token, plus `token_feedback` if it is given (rewards of
  single tokens). Returns = GAE + old values, taken before whitening over all
  tokens of the rollout (population variance). So run it once a rollout.
  """
  mask = ops.live_tokens(x)
  rewards = returns.score_at_end(x.feedback, mask)
  if x.token_feedback is not None:
    rewards = rewards + x.token_feedback
  if kl_coef:
    kl = returns.kl_estimate(x.sampler_logps, x.reference_logps, kl_kind)
    rewards = rewards - kl_coef * kl
  advantages = returns.gae(rewards, x.old_values, mask, gamma, gae_lambda)
  return x.replace(
    advantages=returns.whiten(advantages, mask, add=returns.VARIANCE_EPS),
    token_feedback=jnp.where(mask, advantages + x.old_values, 0.0),
  )


def _needs(h):
  needs = {"advantages", "sampler_logps", "old_values", "values"}
  needs |= {"token_feedback"}
  needs |= {"reference_logps"} if h.kl_coef else set()
  return needs | ({"entropy"} if h.entropy_coef else set())


@registry.register(
  paper="https://arxiv.org/abs/2203.02155",
  completions=(1, None),
  feedback={Feedback.SCORE},
  needs=_needs,
  prepare=prepare,
  limits=dict(
    kl_coef=registry.NONNEGATIVE,
    clip_low=registry.UNIT,
    clip_high=registry.NONNEGATIVE,
    gamma=registry.UNIT,
    gae_lambda=registry.UNIT,
    value_clip=registry.POSITIVE,
    value_coef=registry.NONNEGATIVE,
    entropy_coef=registry.NONNEGATIVE,
    dual_clip=DUAL,
  ),
  survey=registry.Survey(
    reward_model="explicit",
    reward_form="pointwise",
    reward_level="response",
    negative="both",
    feedback="ranks",
    arrangement="list",
    labeler="human",
    reference="yes",
    length_control=False,
    divergence="reverse KL",
    policy="on",
    iteration="offline",
    sft="separate",
  ),
)
def ppo(
  x: LossInputs,
  *,
  kl_coef: float = 0.02,
  kl_kind: returns.KL = "k1",
  gamma: float = 1.0,
  gae_lambda: float = 0.95,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  value_clip: float = 0.2,
  value_coef: float = 0.1,
  entropy_coef: float = 0.0,
  dual_clip: float = 0.0,
) -> LossOutput:
  """Token mean of L_pi + value_coef * L_V - entropy_coef * entropy.

  L_pi = max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high)) with rho = exp(
  logp - sampler's logp), clamped at e^+-20. L_V = max((V - R)^2, (V' - R)^2) /
  2 with V' = V_old + clip(V - V_old, +-value_clip). `prepare` fills A and the
  returns R. Text kept from pretraining (ptx) is an auxiliary `sft` loss.

  Args:
    x: K >= 1 samples, SCORE feedback, after `prepare`: `token_feedback` holds
      the returns.
    kl_coef: beta >= 0 of the KL in the reward.
    kl_kind: its estimator.
    gamma, gae_lambda: in [0, 1].
    clip_low, clip_high: the range of the ratio.
    value_clip: > 0; inf is the plain squared error.
    value_coef: >= 0.
    entropy_coef: >= 0; 0 needs no entropy.
    dual_clip: c > 1 bounds the loss by -c A where A < 0; 0 = off.

  Returns:
    loss [B], summed over tokens; weight [B]: number of tokens.

  Raises:
    XpoError: wrong feedback kind, a missing column.

  Reference: Ouyang et al. 2022, arXiv 2203.02155; Ziegler et al. 2019, arXiv
  1909.08593; methods.md 2.1 (population variance, score at the last token).
  """
  logratio = x.policy_logps - x.sampler_logps
  loss, clipped = returns.clipped_surrogate(
    logratio, x.advantages, clip_low, clip_high, dual_clip
  )
  target = x.token_feedback
  moved = jnp.clip(x.values - x.old_values, -value_clip, value_clip)
  error = jnp.maximum(
    (x.values - target) ** 2, (x.old_values + moved - target) ** 2
  )
  mask = ops.live_tokens(x)
  metrics = returns.policy_metrics(x, logratio, clipped) | {
    "policy/loss": ops.prompt_mean(loss, mask),
    "value/loss": ops.prompt_mean(error / 2, mask),
    "value/mean": ops.prompt_mean(x.values, mask),
  }
  loss = loss + value_coef * error / 2
  if entropy_coef:
    loss = loss - entropy_coef * x.entropy
    metrics["policy/entropy"] = ops.prompt_mean(x.entropy, mask)
  return ops.per_token(loss, mask, x.weight, metrics)
