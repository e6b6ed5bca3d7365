"""Branch attention: who sees whom in packed rows, with windows and caps.

Letters: R rows, L queries a row, S keys a row, H query heads, G key heads, C
head width.
"""

import chex
from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from xpo_jax.models.layers import soft_cap
from xpo_jax.types import Array

QUERY_CHUNK = 512  # rows longer than this never hold [L, S] scores at once


@struct.dataclass
class Places:
  """What decides who sees whom: all int32 [R, L]."""

  positions: Array
  group: Array  # 0 = padding
  branch: Array  # 0 = prompt, 1..K = completion


def visible(query: Places, key: Places, window: Array | None = None) -> Array:
  """bool [R, L, S]: same group, own branch or the prompt, and not later.

  With a window (scalar), also less than `window` positions before.
  """
  q, k = (
    jax.tree.map(lambda x: x[:, :, None], query),
    (jax.tree.map(lambda x: x[:, None, :], key)),
  )
  same = (q.group == k.group) & (q.group > 0)
  branch = (k.branch == 0) | (k.branch == q.branch)
  seen = same & branch & (k.positions <= q.positions)
  if window is not None:
    seen = seen & (q.positions - k.positions < window)
  return seen


def attention(
  q: Array,
  k: Array,
  v: Array,
  query: Places,
  key: Places,
  *,
  window: Array | None = None,
  scale: float | None = None,
  cap: float = 0.0,
) -> Array:
  """Branch attention, softmax in float32.

  Args:
    q: [R, L, H, C], already rotated.
    k: [R, S, G, C], H a multiple of G.
    v: [R, S, G, C].
    query: places of the queries.
    key: places of the keys.
    window: scalar, positions that a query sees, its own included; None: all.
    scale: factor of the scores; C ** -0.5 if None.
    cap: soft cap of the scaled scores; 0: none.

  Returns:
    [R, L, H, C] in q's dtype; 0 where nothing is visible (padding).
  """
  chex.assert_rank([q, k, v], 4)
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  rows, length, *rest = q.shape
  chunks = -(-length // QUERY_CHUNK)
  if chunks == 1:
    return _attention(q, k, v, query, key, window, scale, cap)
  size = -(-length // chunks)

  def split(x):  # padding queries are of group 0 and see nothing
    ends = [(0, 0), (0, chunks * size - length)] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, ends).reshape(rows, chunks, size, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  chunk = jax.checkpoint(
    lambda c: _attention(c[0], k, v, c[1], key, window, scale, cap)
  )
  out = lax.map(chunk, jax.tree.map(split, (q, query)))
  return jnp.moveaxis(out, 0, 1).reshape(rows, -1, *rest)[:, :length]


def _attention(q, k, v, query, key, window, scale, cap):
  rows, length, heads, width = q.shape
  kv_heads = k.shape[2]
  q = q.reshape(rows, length, kv_heads, heads // kv_heads, width)
  scores = jnp.einsum("rlghc,rsgc->rghls", q, k).astype(jnp.float32)
  scores = soft_cap(scores * scale, cap)
  mask = visible(query, key, window)[:, None, None]
  scores = jnp.where(mask, scores, -1e30)
  top = lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
  weights = jnp.where(mask, jnp.exp(scores - top), 0.0)
  total = jnp.sum(weights, axis=-1, keepdims=True)
  weights = (weights / jnp.where(total > 0, total, 1.0)).astype(v.dtype)
  out = jnp.einsum("rghls,rsgc->rlghc", weights, v)
  return out.reshape(rows, length, heads, width)
