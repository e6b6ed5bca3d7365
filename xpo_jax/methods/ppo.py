"""Proximal policy optimisation with a value head and KL reward (PPO-RLHF)."""

import jax.numpy as jnp

from xpo_jax import ops, returns
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput

DUAL = registry.Limit(lambda v: v == 0 or v > 1, "must be 0 (off) or > 1")


def prepare(
  x: LossInputs,
  kl_coef: float,
  kl_kind: str,
  gamma: float,
  gae_lambda: float,
  kl_target: float,
  kl_horizon: float,
) -> LossInputs:
  """Fills `advantages` (whitened GAE) and `token_feedback` (returns).

  Token reward: -kl_coef * KL of sampler and reference, plus the score
  `feedback` at the last token, plus `token_feedback` if it is given (rewards of
  single tokens). Returns = GAE + old values, taken before whitening over all
  tokens of the rollout (population variance). So run it once a rollout.

  An adaptive coefficient is `state["kl_coef"]`: this rollout's rewards use it,
  and the returned state holds the next rollout's (the same in evaluation).
  """
  mask = ops.live_tokens(x)
  rewards = returns.score_at_end(x.feedback, mask)
  if x.token_feedback is not None:
    rewards = rewards + x.token_feedback
  state = x.state
  if kl_coef:
    kl = returns.sampled_kl(x, kl_kind)
    rewards = rewards - (kl_coef if state is None else state["kl_coef"]) * kl
  if state is not None and x.train:
    state = _adapted(x, mask, kl_target, kl_horizon)
  advantages = returns.gae(rewards, x.old_values, mask, gamma, gae_lambda)
  return x.replace(
    advantages=returns.whiten(advantages, mask, add=returns.VARIANCE_EPS),
    token_feedback=jnp.where(mask, advantages + x.old_values, 0.0),
    state=state,
  )


def _adapted(x, mask, target, horizon):
  """The next coefficient, from this rollout's mean KL of a sample."""
  samples = jnp.any(mask, axis=-1)
  kl = ops.sequence_sum(x.sampler_logps - x.reference_logps, mask)
  old = x.state["kl_coef"]
  new = returns.adapted_kl_coef(
    old,
    ops.masked_mean(kl, samples),
    target=target,
    horizon=horizon,
    episodes=jnp.sum(samples),
  )
  return {"kl_coef": new.astype(old.dtype)}


def _start(h):
  if h["kl_target"] and h["kl_coef"]:
    return {"kl_coef": jnp.full((), h["kl_coef"])}
  return None


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
  prepare_needs=lambda h: returns.exact_kl(h.kl_kind) if h.kl_coef else set(),
  init_state=_start,
  limits=dict(
    kl_coef=registry.NONNEGATIVE,
    clip_low=registry.UNIT,
    clip_high=registry.NONNEGATIVE,
    gamma=registry.UNIT,
    gae_lambda=registry.UNIT,
    value_clip=registry.POSITIVE,
    value_coef=registry.POSITIVE,
    entropy_coef=registry.NONNEGATIVE,
    dual_clip=DUAL,
    kl_target=registry.NONNEGATIVE,
    kl_horizon=registry.POSITIVE,
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
  kl_kind: returns.KLReward = "k1",
  gamma: float = 1.0,
  gae_lambda: float = 0.95,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  value_clip: float = 0.2,
  value_coef: float = 0.1,
  entropy_coef: float = 0.0,
  dual_clip: float = 0.0,
  kl_target: float = 0.0,
  kl_horizon: float = 10_000.0,
) -> LossOutput:
  """Token mean of L_pi + value_coef * L_V - entropy_coef * entropy.

  L_pi = max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high)) with rho = exp(
  logp - sampler's logp), clamped at e^+-20. L_V = max((V - R)^2, (V' - R)^2) /
  2 with V' = V_old + clip(V - V_old, +-value_clip). `prepare` fills A and the
  returns R. Text kept from pretraining (ptx) is an auxiliary `sft` loss.

  Args:
    x: K >= 1 samples, SCORE feedback, after `prepare`: `token_feedback` holds
      the returns.
    kl_coef: beta >= 0 of the KL in the reward; with a target, its start.
    kl_kind: k1, k2, k3: its estimator; reverse, forward, js: exact.
    gamma, gae_lambda: in [0, 1].
    clip_low, clip_high: the range of the ratio.
    value_clip: > 0; inf is the plain squared error.
    value_coef: > 0; without values it is `reinforce_pp`.
    entropy_coef: >= 0; 0 needs no entropy.
    dual_clip: c > 1 bounds the loss by -c A where A < 0; 0 = off.
    kl_target: KL of a sample to the reference in nats that beta aims at, from
      rollout to rollout; 0 = beta stays.
    kl_horizon: samples over which it follows, > 0.

  Returns:
    loss [B], summed over tokens; weight [B]: number of tokens; the state of
    `prepare` as it is.

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
  if x.state is not None:
    coef = x.state["kl_coef"].astype(loss.dtype)
    metrics["kl/coef"] = jnp.broadcast_to(coef, x.weight.shape)
  out = ops.per_token(loss, mask, x.weight, metrics)
  return out._replace(state=x.state)
