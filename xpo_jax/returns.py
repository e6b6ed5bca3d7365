"""Policy-gradient maths on [B, K, T]: rewards, advantages, ratios.

Same layer as `ops`: arrays in, arrays out. What a `prepare` needs runs once a
rollout on frozen numbers; `clipped_surrogate` and the KL terms are part of
losses and have gradients.
"""

from typing import Literal

import jax
from jax import lax
import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.types import Array, LossInputs

KL = Literal["k1", "k2", "k3"]
# In the loss (k2 has the gradient of the reverse KL, k3 that of the forward
# KL), or k1 as a part of the reward.
KLPlace = Literal["k3", "k2", "k1_reward"]
# Of a KL in the reward: an estimator, or exact over the whole vocabulary.
KLReward = Literal["k1", "k2", "k3", "reverse", "forward", "js"]
_EXACT = ("reverse", "forward", "js")
VARIANCE_EPS = 1e-8  # of whitening over a rollout


def kl_estimate(logps: Array, reference_logps: Array, kind: KL) -> Array:
  """Schulman's estimators of KL(policy || reference) from one token's sample.

  With d = logps - reference_logps: k1 = d, k2 = d^2 / 2, k3 = e^-d - 1 + d.
  k3 stops at d = -20 (value and gradient), so that it stays finite and never
  pushes the wrong way.

  Args:
    logps: the sampled token's log-prob under the policy, nats; any shape.
    reference_logps: the same under the reference, frozen.
    kind: the estimator.

  Reference: Schulman 2020, "Approximating KL divergence"; methods.md 0.6.
  """
  d = logps - ops.frozen(reference_logps)
  if kind == "k1":
    return d
  if kind == "k2":
    return d**2 / 2
  d = jnp.maximum(d, -ops.EXPONENT_LIMIT)
  return ops.clipped_exp(-d) - 1 + d


def exact_kl(kind: KLReward) -> set[str]:
  """What a `prepare` needs besides the loss's inputs for this kind."""
  return {f"token_kl:{kind}"} if kind in _EXACT else set()


def sampled_kl(x: LossInputs, kind: KLReward) -> Array:
  """[B, K, T] KL of the sampler from the reference at every sampled token.

  Estimated from the token, or exact (`x.token_kl`; reverse: sum p log p / ref,
  forward: sum ref log ref / p, js: Jensen and Shannon's).

  Source: methods.md 0.6 and 13.2.
  """
  if kind in _EXACT:
    return ops.frozen(x.token_kl)
  return kl_estimate(x.sampler_logps, x.reference_logps, kind)


def last_token(mask: Array) -> Array:
  """bool [..., T]: the last True of each row and nothing else."""
  return mask & (ops.tail_sum(jnp.ones(mask.shape), mask) == 1)


def score_at_end(scores: Array, mask: Array) -> Array:
  """[B, K] -> [B, K, T]: the score at the last token, 0 elsewhere."""
  return jnp.where(last_token(mask), scores[..., None], 0.0)


def gae(
  rewards: Array, values: Array, mask: Array, gamma: float, gae_lambda: float
) -> Array:
  """Generalised advantage estimates, walking back over tokens with mask True.

  delta_t = r_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lambda A_{t+1};
  V and A are 0 after the last token. Masked places are skipped: they neither
  decay nor reset. With V = 0 and lambda = 1 it is the discounted reward to go.

  Args:
    rewards: [..., T].
    values: [..., T] of the state before each token.
    mask: bool [..., T].
    gamma: discount in [0, 1].
    gae_lambda: in [0, 1].

  Returns:
    [..., T], 0 where mask is False.

  Reference: Schulman et al. 2016, arXiv 1506.02438, eq. 16.
  """

  def back(after, at):
    advantage, value = after
    reward, value_now, counts = at
    delta = reward + gamma * value - value_now
    now = delta + gamma * gae_lambda * advantage
    kept = (
      jnp.where(counts, now, advantage),
      jnp.where(counts, value_now, value),
    )
    return kept, jnp.where(counts, now, 0.0)

  time_first = lambda a: jnp.moveaxis(a, -1, 0)
  start = jnp.zeros_like(rewards[..., 0])
  columns = jax.tree.map(time_first, (rewards, values, mask))
  _, advantages = lax.scan(back, (start, start), columns, reverse=True)
  return jnp.moveaxis(advantages, 0, -1)


def moments(x: Array, mask: Array) -> tuple[Array, Array]:
  """Mean and population variance over all entries with mask True."""
  mean = ops.masked_mean(x, mask)
  return mean, ops.masked_mean((x - mean) ** 2, mask)


def whiten(
  x: Array, mask: Array, *, floor: float = 0.0, add: float = 0.0
) -> Array:
  """(x - mean) / sqrt(max(variance, floor) + add), 0 where mask is False."""
  mean, variance = moments(x, mask)
  scale = jnp.sqrt(jnp.maximum(variance, floor) + add)
  return jnp.where(mask, (x - mean) / scale, 0.0)


def group_centered(scores: Array, member: Array) -> Array:
  """[B, K]: scores minus the mean of their prompt's members, else 0."""
  count = jnp.maximum(jnp.sum(member, axis=-1, keepdims=True), 1)
  mean = ops.masked_sum(scores, member)[:, None] / count.astype(scores.dtype)
  return jnp.where(member, scores - mean, 0.0)


def group_normalised(
  scores: Array, member: Array, std_eps: float, std_ddof: int
) -> Array:
  """[B, K]: centred scores over (standard deviation of the group + std_eps).

  0 in a group of equal scores and in a group of one.
  """
  centered = group_centered(scores, member)
  count = jnp.sum(member, axis=-1, keepdims=True)
  count = jnp.maximum(count - std_ddof, 1).astype(scores.dtype)
  variance = jnp.sum(centered**2, axis=-1, keepdims=True) / count
  return centered / (jnp.sqrt(variance) + std_eps)


def group_rewards(x: LossInputs, beta: float, kl_loss: KLPlace) -> Array:
  """[B, K] feedback, minus beta times the sampled KL where it is a reward."""
  if not beta or kl_loss != "k1_reward":
    return x.feedback
  k1 = x.sampler_logps - x.reference_logps
  return x.feedback - beta * ops.sequence_sum(k1, x.completion_mask)


def spread(advantages: Array, x: LossInputs) -> LossInputs:
  """x with a completion's advantage [B, K] on each of its tokens."""
  column = jnp.where(ops.live_tokens(x), advantages[..., None], 0.0)
  return x.replace(advantages=column)


def prepare_groups(
  x: LossInputs,
  beta: float,
  kl_loss: KLPlace,
  std_eps: float,
  std_ddof: int,
) -> LossInputs:
  """Fills `advantages`: (r - group mean) / (group deviation + std_eps)."""
  rewards = group_rewards(x, beta, kl_loss)
  return spread(group_normalised(rewards, x.present, std_eps, std_ddof), x)


def clipped_surrogate(
  logratio: Array,
  advantages: Array,
  clip_low: float,
  clip_high: float,
  dual_clip: float = 0.0,
) -> tuple[Array, Array]:
  """max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high)), rho = e^logratio.

  Args:
    logratio: log policy - log sampler, of tokens or sequences; clamped at +-20.
    advantages: the same shape, frozen.
    clip_low: in [0, 1].
    clip_high: >= 0.
    dual_clip: c > 1 bounds the loss by -c A where A < 0; 0 = off.

  Returns:
    (loss, bool: the clipped side is the larger one), both elementwise.

  Reference: Schulman et al. 2017, arXiv 1707.06347, eq. 7; dual clip: Ye et
  al. 2020, arXiv 1912.09729.
  """
  ratio = ops.clipped_exp(logratio)
  plain = -advantages * ratio
  bounded = -advantages * jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
  loss = jnp.maximum(plain, bounded)
  if dual_clip:
    floor = jnp.minimum(loss, -dual_clip * advantages)
    loss = jnp.where(advantages < 0, floor, loss)
  return loss, bounded > plain


def group_policy_loss(
  x: LossInputs,
  *,
  beta: float,
  clip_low: float,
  clip_high: float,
  kl_loss: KLPlace,
  sequence_ratio: bool = False,
) -> tuple[Array, dict[str, Array]]:
  """The token loss [B, K, T] of the GRPO family and its metrics.

  The clipped surrogate plus beta times the KL estimate; `sequence_ratio` takes
  exp(mean_t log ratio) for all tokens of a completion (GSPO). Its slope is put
  on each token's own log-prob (the paper's GSPO-token): the same in sum, but
  where importance weights make advantages differ from token to token.
  """
  logratio = x.policy_logps - x.sampler_logps
  if sequence_ratio:
    mean = ops.frozen(ops.sequence_mean(logratio, x.completion_mask))
    moved = x.policy_logps - ops.frozen(x.policy_logps)
    logratio = jnp.where(x.completion_mask, mean[..., None] + moved, 0.0)
  loss, clipped = clipped_surrogate(logratio, x.advantages, clip_low, clip_high)
  metrics = policy_metrics(x, logratio, clipped)
  if beta and kl_loss != "k1_reward":
    loss = loss + beta * kl_estimate(x.policy_logps, x.reference_logps, kl_loss)
  return loss, metrics


def policy_metrics(
  x: LossInputs, logratio: Array, clipped: Array
) -> dict[str, Array]:
  """What every policy gradient reports, [B] each, no gradient.

  Args:
    x: the inputs.
    logratio: [B, K, T] log policy - log sampler.
    clipped: bool [B, K, T] from `clipped_surrogate`.
  """
  mask = ops.live_tokens(x)
  clipped = clipped.astype(logratio.dtype)
  high = jnp.where(x.advantages > 0, clipped, 0.0)
  metrics = {
    "rewards/mean": ops.prompt_mean(x.feedback, x.present),
    "policy/clip_fraction": ops.prompt_mean(clipped, mask),
    "policy/clip_high_fraction": ops.prompt_mean(high, mask),
    "policy/ratio": ops.prompt_mean(ops.clipped_exp(logratio), mask),
    "kl/sampler": ops.prompt_mean(logratio**2 / 2, mask),
    "logps/token": ops.prompt_mean(x.policy_logps, mask),
  }
  if x.reference_logps is not None:
    k3 = kl_estimate(x.policy_logps, x.reference_logps, "k3")
    metrics["kl/reference"] = ops.prompt_mean(k3, mask)
  return metrics


def nash_policy_loss(
  x: LossInputs, tau: float
) -> tuple[Array, dict[str, Array]]:
  """[B, K]: -sum_t logp_t sg(P - 1/2 - tau sum_{n>=t} u_n), and metrics.

  Args:
    x: completions of the policy; feedback = P(it beats the opponent's sample).
    tau: weight of the KL to the reference; 0 needs none.
  """
  mask, live = x.completion_mask, ops.live_tokens(x)
  ours = jnp.any(live, axis=-1)
  metrics = {
    "rewards/win_rate": ops.prompt_mean(x.feedback, ours),
    "logps/token": ops.prompt_mean(x.policy_logps, live),
  }
  advantages = x.feedback[..., None] - 0.5
  if tau:
    u = ops.frozen(x.policy_logps) - x.reference_logps
    advantages = advantages - tau * ops.tail_sum(u, mask)
    metrics["kl/reference"] = ops.prompt_mean(ops.sequence_sum(u, mask), ours)
  loss = -ops.sequence_sum(x.policy_logps * advantages, mask)
  return loss, metrics


def adapted_kl_coef(
  kl_coef: float, kl: float, *, target: float, horizon: float, episodes: float
) -> float:
  """Ziegler's controller: beta (1 + clip(KL / target - 1, +-0.2) n / horizon).

  Args:
    kl_coef: beta of the rollout that is done.
    kl: its mean sequence KL to the reference, nats.
    target: wanted KL, > 0, nats.
    horizon: episodes over which beta follows, > 0.
    episodes: completions in that rollout.

  Reference: Ziegler et al. 2019, arXiv 1909.08593.
  """
  error = jnp.clip(kl / target - 1, -0.2, 0.2)
  return kl_coef * (1 + error * episodes / horizon)
