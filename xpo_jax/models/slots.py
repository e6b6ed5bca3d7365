"""Attention of one new token a slot to a shared prompt and to its own past.

A row of the sampler holds Z slots, each at its own completion, and N prompts
that they continue. A prompt's keys exist once, whatever the number of slots
that read them. A slot's own keys lie in a ring of S places: all slots write at
the same place, tick mod S, so what a slot wrote in its last S steps is told by
age alone and a slot can start anew at any tick.

Letters: R rows, Z slots, N prompts, W slots a prompt at most, H query heads, G
key heads, h = H / G, C head width, P prompt places, S steps.
"""

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from xpo_jax.models.layers import soft_cap
from xpo_jax.types import Array


@struct.dataclass
class SlotPlaces:
  """Where every slot stands; all int32."""

  positions: Array  # [R, Z] of the tokens that are fed now
  steps: Array  # [R, Z] own tokens fed before
  tick: Array  # [] counts the steps of all slots
  shared: Array  # [R, N] tokens of each prompt that its slots see
  seats: Array | None = None  # [R, Z] prompt * W + column; None: N = 1, W = Z
  grid: Array | None = None  # [R, N * W] the slot on each seat, or any


@struct.dataclass
class SlotCache:
  """Keys and values of one layer."""

  shared_key: Array  # [R, N, G, C, P]
  shared_value: Array  # [R, N, G, P, C]
  # R * Z in one: an axis of 1 costs XLA a copy every step.
  key: Array  # [R * Z, G, C, S], as the product with queries reads it
  value: Array  # [R * Z, G, S, C]


def attend(
  q: Array,
  k: Array,
  v: Array,
  cache: SlotCache,
  places: SlotPlaces,
  window: Array | None,
  scale: float | None,
  cap: float,
) -> tuple[Array, SlotCache]:
  """Branch attention of one token a slot; the softmax is in float32.

  Args:
    q: [R, Z, H, C], already rotated.
    k: [R, Z, G, C] of the new tokens; they see themselves.
    v: [R, Z, G, C].
    cache: of this layer.
    places: of the slots.
    window: scalar, positions that a query sees, its own included; None: all.
    scale: factor of the scores; C ** -0.5 if None.
    cap: soft cap of the scaled scores; 0: none.

  Returns:
    [R, Z, H, C] in q's dtype, and the cache with the new tokens.
  """
  rows, slots, heads, width = q.shape
  groups, size = cache.value.shape[1:3]
  at = places.tick % size
  put = lambda ring, new, axis: lax.dynamic_update_slice_in_dim(
    ring, jnp.expand_dims(_flat(new), axis).astype(ring.dtype), at, axis=axis
  )
  cache = cache.replace(key=put(cache.key, k, 3), value=put(cache.value, v, 2))
  scale = width**-0.5 if scale is None else scale
  q = q.reshape(rows, slots, groups, heads // groups, width)
  age = (at - jnp.arange(size)) % size
  seen = age[None] <= places.steps.reshape(-1, 1)  # [R * Z, S]
  if window is not None:
    seen = seen & (age[None] < window)
  own = _part(
    jnp.einsum("xghc,xgcs->xghs", _flat(q), cache.key),
    seen[:, None, None],
    scale,
    cap,
    lambda w: _weigh("xghs,xgsc->xghc", w, cache.value),
  )
  own = jax.tree.map(lambda x: x.reshape(rows, slots, *x.shape[1:]), own)
  shared = _shared(q, cache, places, window, scale, cap)
  out = _merge(own, shared).astype(q.dtype)
  return out.reshape(rows, slots, heads, width), cache


def _flat(x):
  return x.reshape(-1, *x.shape[2:])


def _shared(q, cache, places, window, scale, cap):
  """(top, total, sum) [R, Z, G, h, ...] over each slot's own prompt.

  The slots of one prompt are put together, so that its keys are read once.
  """
  rows, prompts, _, _, length = cache.shared_key.shape
  seated = places.seats is not None
  sit = lambda x: _take(x, places.grid) if seated else x
  split = lambda x: sit(x).reshape(rows, prompts, -1, *x.shape[2:])
  at = jnp.arange(length)
  seen = at[None, None] < places.shared[..., None]
  seen = seen[:, :, None]  # [R, N, W or 1, P]
  if window is not None:
    seen = seen & (
      split(places.positions)[..., None] - at[None, None, None] < window
    )
  q = jnp.moveaxis(split(q), 2, 3)  # [R, N, G, W, h, C]
  found = _part(
    jnp.einsum("rngwhc,rngcp->rngwhp", q, cache.shared_key),
    seen[:, :, None, :, None],
    scale,
    cap,
    lambda w: _weigh("rngwhp,rngpc->rngwhc", w, cache.shared_value),
  )

  def back(x):
    x = jnp.moveaxis(x, 2, 3)  # [R, N, W, G, h, ...]
    x = x.reshape(rows, -1, *x.shape[3:])
    return _take(x, places.seats) if seated else x

  return jax.tree.map(back, found)


def _take(x, index):
  """x [R, A, ...], index [R, I] -> [R, I, ...]; row-local."""
  index = index.reshape(*index.shape, *[1] * (x.ndim - 2))
  return jnp.take_along_axis(x, index, axis=1, mode="clip")


def _part(scores, seen, scale, cap, weigh):
  """Maximum, sum and weighted values of the part of a softmax."""
  scores = soft_cap(scores.astype(jnp.float32) * scale, cap)
  scores = jnp.where(seen, scores, -1e30)
  top = jnp.max(scores, axis=-1, keepdims=True)
  # 0 where not seen; if nothing is seen, `_merge` gives the part the weight 0.
  weights = jnp.exp(scores - top)
  return top, jnp.sum(weights, axis=-1, keepdims=True), weigh(weights)


def _weigh(spec, weights, values):
  return jnp.einsum(
    spec,
    weights.astype(values.dtype),
    values,
    preferred_element_type=jnp.float32,
  )


def _merge(own, shared):
  """One softmax over both parts; a slot always sees its own new token."""
  top = jnp.maximum(own[0], shared[0])
  a, b = jnp.exp(own[0] - top), jnp.exp(shared[0] - top)
  total = a * own[1] + b * shared[1]
  return (a * own[2] + b * shared[2]) / total
