"""Alignment by optimal transport, unpaired (AOT)."""

import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Array, Feedback, LossInputs, LossOutput


def quantiles(values: Array, member: Array, place: Array) -> Array:
  """The members' sample quantile function, linear between order statistics.

  Args:
    values: [N].
    member: bool [N].
    place: [M] places among the sorted members: 0 is the smallest, n - 1 the
      largest; clamped to the ends.
  """
  last = jnp.maximum(jnp.sum(member) - 1, 0)
  order = jnp.argsort(jnp.where(member, ops.frozen(values), jnp.inf))
  ascending = values[order]
  place = jnp.clip(place, 0, last.astype(place.dtype))
  low = jnp.floor(place).astype(jnp.int32)
  part = place - low.astype(place.dtype)
  high = jnp.minimum(low + 1, last)
  return (1 - part) * ascending[low] + part * ascending[high]


def _facing(u, own, other):
  """For each member of own: the quantile of other at its own level."""
  level = ops.ranks(u, own).astype(u.dtype) + 0.5
  counts = [jnp.sum(side).astype(u.dtype) for side in (other, own)]
  ratio = counts[0] / jnp.maximum(counts[1], 1)
  return quantiles(u, other, level * ratio - 0.5)


@registry.register(
  paper="https://arxiv.org/abs/2406.05882",
  completions=(1, 2),
  feedback={Feedback.ORDER, Feedback.BINARY},
  needs={"reference_logps"},
  couples_batch=True,
  limits=dict(beta=registry.POSITIVE),
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
def aot_unpaired(x: LossInputs, *, beta: float = 0.01) -> LossOutput:
  """softplus(-beta (a_(i) - c_(i))), a and c sorted over the batch.

  a are the log-ratios S - R of all chosen completions, c of all rejected ones.
  Of n and m a side, min(n, m) quantiles at (i - 1/2) / min(n, m) are compared;
  a loss is returned at the completion of the smaller side (chosen if equal)
  whose quantile it is. The order has no gradient.

  Args:
    x: ORDER pairs, chosen first, or BINARY completions. Couples the batch.
    beta: pull to the reference, > 0, 1/nats.

  Returns:
    loss [B] in nats, weight [B] = number of quantiles at that prompt.

  Raises:
    XpoError: wrong K, feedback kind, keyword or missing reference.

  Reference: Melnyk et al. 2024, arXiv 2406.05882; methods.md 14.9.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  counted = x.present & (x.weight > 0)[:, None]
  chosen = counted & (x.feedback > 0)
  binary = x.feedback_kind is Feedback.BINARY  # 0 is then neither
  rejected = counted & (x.feedback < 0 if binary else x.feedback <= 0)
  flat, good, bad = u.ravel(), chosen.ravel(), rejected.ravel()
  few_good = jnp.sum(good) <= jnp.sum(bad)
  above = jnp.where(few_good, flat, _facing(flat, bad, good))
  below = jnp.where(few_good, _facing(flat, good, bad), flat)
  seat = jnp.where(few_good, good, bad)
  gap = jnp.where(seat, above - below, 0.0)
  return ops.per_completion(
    ops.softplus(-beta * gap).reshape(u.shape),
    seat.reshape(u.shape),
    x.weight,
    _metrics(x, beta * u, chosen, rejected),
  )


def _metrics(x, rewards, chosen, rejected):
  if rewards.shape[1] == 2:
    return ops.pair_metrics(rewards, x.policy_logps, x.completion_mask)
  rewards = ops.frozen(rewards[:, 0])
  live = x.weight > 0
  high = ops.class_mean(rewards, chosen[:, 0], live)
  low = ops.class_mean(rewards, rejected[:, 0], live)
  return {
    "rewards/chosen": high,
    "rewards/rejected": low,
    "rewards/margin": high - low,
  }
