"""Masked sums and the scalar maths that several losses share.

Every reduction replaces masked entries by 0 with `where` first, so that -inf or
NaN in padding cannot leak. Dtypes: what comes in, never below float32.
"""

import dataclasses

import chex
import jax
from jax import lax
import jax.numpy as jnp

from xpo_jax.errors import usage_error
from xpo_jax.types import LIVE_INPUTS, Array, LossInputs, LossOutput

EXPONENT_LIMIT = 20.0  # importance, k3 and sequence ratios
WIDE_EXPONENT_LIMIT = 80.0  # gpo, f_dpo, discopop


def at_least_f32(x: Array) -> Array:
  """bfloat16 and float16 become float32; float32 and float64 stay."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def frozen(x: Array) -> Array:
  """A constant for the gradient, in float32 or better."""
  return lax.stop_gradient(at_least_f32(x))


def settled(x: LossInputs) -> LossInputs:
  """What every loss may rely on; the registry applies it to what comes in.

  Every float input is float32 or better; 0 where `completion_mask` ([B, K, T])
  or `present` ([B, K]) is False, so that neither NaN nor a gradient can leak
  there; and a constant for the gradient unless LIVE_INPUTS names it.
  """
  masks = {3: x.completion_mask, 2: x.present}
  changes = {"state": lax.stop_gradient(x.state)}
  for field in dataclasses.fields(x):
    value = getattr(x, field.name)
    if not jnp.issubdtype(getattr(value, "dtype", bool), jnp.floating):
      continue
    value = at_least_f32(value)
    if value.ndim in masks:
      value = jnp.where(masks[value.ndim], value, 0.0)
    if field.name not in LIVE_INPUTS:
      value = lax.stop_gradient(value)
    changes[field.name] = value
  return x.replace(**changes)


def masked_sum(
  x: Array, mask: Array, axis: int | tuple[int, ...] = -1
) -> Array:
  """Sum over `axis` of the entries where mask is True."""
  chex.assert_equal_shape([x, mask])
  return jnp.sum(jnp.where(mask, at_least_f32(x), 0.0), axis=axis)


def sequence_sum(x: Array, mask: Array) -> Array:
  """[B, K, T] -> [B, K]: sum over the completion's tokens."""
  return masked_sum(x, mask, axis=-1)


def sequence_length(mask: Array, dtype=jnp.float32) -> Array:
  """[B, K, T] -> [B, K]: max(1, number of completion tokens)."""
  return jnp.maximum(jnp.sum(mask, axis=-1), 1).astype(dtype)


def sequence_mean(x: Array, mask: Array) -> Array:
  """[B, K, T] -> [B, K]: mean over the completion's tokens; 0 if empty."""
  total = sequence_sum(x, mask)
  return total / sequence_length(mask, total.dtype)


def masked_mean(x: Array, mask: Array) -> Array:
  """Mean over all axes where mask is True; 0 for an empty mask."""
  x = at_least_f32(x)
  total = jnp.sum(jnp.where(mask, x, 0.0))
  return total / jnp.maximum(jnp.sum(mask), 1).astype(x.dtype)


def logratio(logps: Array, reference_logps: Array, mask: Array) -> Array:
  """Sequence log-ratio u = S_policy - S_reference, [B, K]."""
  return sequence_sum(at_least_f32(logps) - frozen(reference_logps), mask)


def clipped_exp(x: Array, limit: float = EXPONENT_LIMIT) -> Array:
  """exp(clip(x, -limit, limit)): finite value and gradient everywhere."""
  return jnp.exp(jnp.clip(x, -limit, limit))


def log1mexp(a: Array) -> Array:
  """log(1 - exp(a)) for a < 0; finite gradients on both branches."""
  near = a > -jnp.log(2.0).astype(a.dtype)
  a_near = jnp.where(near, a, -0.5)
  a_far = jnp.where(near, -1.0, a)
  return jnp.where(
    near, jnp.log(-jnp.expm1(a_near)), jnp.log1p(-jnp.exp(a_far))
  )


def softplus(x: Array) -> Array:
  """log(1 + exp(x)) = -log sigmoid(-x)."""
  return jax.nn.softplus(x)


def preference_probability(feedback: Array, kind_is_probability: bool) -> Array:
  """[B, 2] -> [B]: P(index 0 wins); 1 for ORDER feedback."""
  if kind_is_probability:
    return frozen(feedback[:, 0])
  return jnp.ones_like(feedback[:, 0])


def pair_metrics(rewards: Array, logps: Array, mask: Array) -> dict[str, Array]:
  """The metrics of every pair loss; all [B], no gradient.

  Args:
    rewards: [B, 2] implicit (or explicit) rewards, chosen first.
    logps: [B, 2, T] policy log-probs.
    mask: bool [B, 2, T].
  """
  sums = lax.stop_gradient(sequence_sum(logps, mask))
  return reward_metrics(rewards) | {
    "logps/chosen": sums[:, 0],
    "logps/rejected": sums[:, 1],
  }


def reward_metrics(rewards: Array) -> dict[str, Array]:
  """Chosen, rejected, margin and strict accuracy of rewards [B, 2]."""
  rewards = lax.stop_gradient(rewards)
  chosen, rejected = rewards[:, 0], rewards[:, 1]
  return {
    "rewards/chosen": chosen,
    "rewards/rejected": rejected,
    "rewards/margin": chosen - rejected,
    "rewards/accuracy": (chosen > rejected).astype(rewards.dtype),
  }


def class_mean(x: Array, member: Array, live: Array) -> Array:
  """[B] whose mean over `live` prompts is the mean of x over `member`."""
  share = jnp.sum(live) / jnp.maximum(jnp.sum(member), 1)
  return jnp.where(member, x, 0.0) * share.astype(x.dtype)


def per_prompt(
  loss: Array, weight: Array, metrics: dict[str, Array]
) -> LossOutput:
  """One loss a prompt: weights multiply numerators only (methods.md, note 3).

  A prompt of weight 0 (an empty slot) leaves numerator and denominator.
  """
  live = weight > 0
  return LossOutput(
    jnp.where(live, loss * weight, 0.0), live.astype(loss.dtype), metrics
  )


def masked_log_softmax(x: Array, mask: Array) -> Array:
  """[B, K] -> [B, K]: log softmax over the entries of a row with mask True.

  0 where mask is False, and everywhere in a row without a True entry.
  """
  chex.assert_equal_shape([x, mask])
  empty = ~jnp.any(mask, axis=-1, keepdims=True)
  outside = jnp.where(empty, 0.0, -jnp.inf)
  logits = jnp.where(mask, at_least_f32(x), outside)
  return jnp.where(mask, jax.nn.log_softmax(logits, axis=-1), 0.0)


def ranks(x: Array, mask: Array) -> Array:
  """int [N]: place 0, 1, .. of each entry in ascending order; no gradient.

  Entries with mask False come last; of equals the lower index is first.
  """
  chex.assert_equal_shape([x, mask])
  keys = jnp.where(mask, lax.stop_gradient(x), jnp.inf)
  return jnp.argsort(jnp.argsort(keys))


def token_nll_term(
  logps: Array, mask: Array, weight: Array
) -> tuple[Array, Array]:
  """An entry of `LossOutput.terms`: the mean NLL of a token of the batch.

  Args:
    logps: [B, T] log-probs of one completion a prompt, nats.
    mask: bool [B, T] its tokens.
    weight: [B] multiplies the numerator only.

  Returns:
    (numerator [B] in nats, denominator [B] = number of tokens, both 0 where
    the weight is).
  """
  live = weight > 0
  counted = mask & live[:, None]
  nll = -masked_sum(logps, counted)
  return nll * weight, jnp.sum(counted, axis=-1).astype(nll.dtype)


def list_metrics(
  rewards: Array, logps: Array, mask: Array, feedback: Array, present: Array
) -> dict[str, Array]:
  """`pair_metrics` of the best-fed-back against the worst completion.

  Args:
    rewards: [B, K].
    logps: [B, K, T].
    mask: bool [B, K, T].
    feedback: [B, K], larger is better; of equals the first counts.
    present: bool [B, K].
  """
  best = jnp.argmax(jnp.where(present, feedback, -jnp.inf), axis=-1)
  worst = jnp.argmin(jnp.where(present, feedback, jnp.inf), axis=-1)
  pair = jnp.stack([best, worst], axis=-1)  # [B, 2]
  take = lambda a: jnp.take_along_axis(a, pair, axis=1)
  take_tokens = lambda a: jnp.take_along_axis(a, pair[..., None], axis=1)
  return pair_metrics(take(rewards), take_tokens(logps), take_tokens(mask))


def tail_sum(x: Array, mask: Array) -> Array:
  """[..., T]: the sum over each place and all later ones with mask True."""
  x = jnp.where(mask, at_least_f32(x), 0.0)
  return jnp.cumsum(x[..., ::-1], axis=-1)[..., ::-1]


def live_tokens(x: LossInputs) -> Array:
  """bool [B, K, T]: tokens of present completions, prompts of weight > 0."""
  live = x.present & (x.weight > 0)[:, None]
  return x.completion_mask & live[..., None]


def per_completion(
  loss: Array, member: Array, weight: Array, metrics: dict[str, Array]
) -> LossOutput:
  """A mean over completions.

  Args:
    loss: [B, K].
    member: bool [B, K] completions that count.
    weight: [B] multiplies the numerators only; 0 for an empty slot.
    metrics: [B] each.
  """
  member = member & (weight > 0)[:, None]
  count = jnp.sum(member, axis=-1).astype(loss.dtype)
  return LossOutput(masked_sum(loss, member) * weight, count, metrics)


def per_token(
  loss: Array, mask: Array, weight: Array, metrics: dict[str, Array]
) -> LossOutput:
  """A mean over the tokens of the batch; loss and mask [B, K, T]."""
  mask = mask & (weight > 0)[:, None, None]
  total = masked_sum(loss, mask, axis=(1, 2))
  count = jnp.sum(mask, axis=(1, 2)).astype(total.dtype)
  return LossOutput(total * weight, count, metrics)


def prompt_mean(x: Array, mask: Array) -> Array:
  """[B, ...] -> [B]: masked mean of each prompt, 0 if empty; no gradient."""
  axes = tuple(range(1, mask.ndim))
  total = masked_sum(frozen(x), mask, axis=axes)
  return total / jnp.maximum(jnp.sum(mask, axis=axes), 1).astype(total.dtype)


def row_mean(x: Array, mask: Array) -> Array:
  """[B, N] -> [B]: mean of the entries with mask True; 0 if there are none."""
  total = masked_sum(x, mask)
  return total / jnp.maximum(jnp.sum(mask, axis=-1), 1).astype(total.dtype)


def forget_weight(x: LossInputs) -> Array:
  """[B]: the weight where completion 0 is there and undesirable, else 0."""
  return jnp.where(x.present[:, 0] & (x.feedback[:, 0] < 0), x.weight, 0.0)


def check_pair(x: LossInputs, method: str) -> None:
  """Raises unless K = 2: list methods with ORDER feedback speak of pairs."""
  k = x.completion_mask.shape[1]
  if k != 2:
    raise usage_error(
      f"{method} with ORDER feedback takes K = 2 completions a prompt, the "
      f"batch has {k}; give the lists as SCORE feedback"
    )
