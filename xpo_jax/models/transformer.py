"""A decoder-only transformer over packed rows with shared prompts.

Letters: R rows, L queries a row, S keys a row, D width, H query heads, G key
heads, C head width, F MLP width, N layers.
"""

import dataclasses
import math

import chex
from flax import linen as nn
from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from xpo_jax.types import Array, PyTree

QUERY_CHUNK = 512  # rows longer than this never hold [L, S] scores at once


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Sizes of a Llama-family decoder."""

  vocab_size: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  head_dim: int
  mlp_width: int
  rope_theta: float = 10_000.0
  norm_eps: float = 1e-5
  tied: bool = True
  max_length: int = 2048


@struct.dataclass
class Places:
  """What decides who sees whom: all int32 [R, L]."""

  positions: Array
  group: Array  # 0 = padding
  branch: Array  # 0 = prompt, 1..K = completion


@struct.dataclass
class Cache:
  """Keys and values of every layer and the places of their slots."""

  key: Array  # [N, R, S, G, C]
  value: Array  # [N, R, S, G, C]


def visible(query: Places, key: Places) -> Array:
  """bool [R, L, S]: same group, own branch or the prompt, and not later."""
  q, k = (
    jax.tree.map(lambda x: x[:, :, None], query),
    (jax.tree.map(lambda x: x[:, None, :], key)),
  )
  same = (q.group == k.group) & (q.group > 0)
  branch = (k.branch == 0) | (k.branch == q.branch)
  return same & branch & (k.positions <= q.positions)


def attention(
  q: Array, k: Array, v: Array, query: Places, key: Places
) -> Array:
  """Branch attention, softmax in float32.

  Args:
    q: [R, L, H, C], already rotated.
    k: [R, S, G, C], H a multiple of G.
    v: [R, S, G, C].
    query: places of the queries.
    key: places of the keys.

  Returns:
    [R, L, H, C] in q's dtype; 0 where nothing is visible (padding).
  """
  chex.assert_rank([q, k, v], 4)
  rows, length, *rest = q.shape
  chunks = -(-length // QUERY_CHUNK)
  if chunks == 1:
    return _attention(q, k, v, query, key)
  size = -(-length // chunks)

  def split(x):  # padding queries are of group 0 and see nothing
    ends = [(0, 0), (0, chunks * size - length)] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, ends).reshape(rows, chunks, size, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  chunk = jax.checkpoint(lambda c: _attention(c[0], k, v, c[1], key))
  out = lax.map(chunk, jax.tree.map(split, (q, query)))
  return jnp.moveaxis(out, 0, 1).reshape(rows, -1, *rest)[:, :length]


def _attention(q, k, v, query, key):
  rows, length, heads, width = q.shape
  kv_heads = k.shape[2]
  q = q.reshape(rows, length, kv_heads, heads // kv_heads, width)
  scores = jnp.einsum("rlghc,rsgc->rghls", q, k).astype(jnp.float32)
  scores = scores * width**-0.5
  mask = visible(query, key)[:, None, None]
  scores = jnp.where(mask, scores, -1e30)
  top = lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
  weights = jnp.where(mask, jnp.exp(scores - top), 0.0)
  total = jnp.sum(weights, axis=-1, keepdims=True)
  weights = (weights / jnp.where(total > 0, total, 1.0)).astype(v.dtype)
  out = jnp.einsum("rghls,rsgc->rlghc", weights, v)
  return out.reshape(rows, length, heads, width)


def rotate(x: Array, positions: Array, theta: float) -> Array:
  """Rotary embedding, half-split. x [R, L, H, C], positions [R, L]."""
  half = x.shape[-1] // 2
  frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = positions[..., None].astype(jnp.float32) * frequency[None, None]
  cos, sin = jnp.cos(angle)[:, :, None], jnp.sin(angle)[:, :, None]
  a, b = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
  turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return turned.astype(x.dtype)


class RMSNorm(nn.Module):
  """x / rms(x) * scale, in float32."""

  eps: float

  @nn.compact
  def __call__(self, x: Array) -> Array:
    init = nn.with_logical_partitioning(nn.initializers.ones, ("norm",))
    scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
    y = x.astype(jnp.float32)
    y = y * lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
    return (y * scale[None, None]).astype(x.dtype)


def project(
  module: nn.Module,
  name: str,
  x: Array,
  inputs: tuple[int, ...],
  outputs: tuple[int, ...],
  axes: tuple[str, ...],
) -> Array:
  """x [..., *inputs] @ kernel [*inputs, *outputs] (+ the low-rank part).

  Declares the kernel (and its LoRA factors) as parameters of `module`, whose
  field `lora` is (rank, scale).
  """
  n = len(inputs)
  rank, scale = module.lora
  init = nn.initializers.variance_scaling(
    1.0, "fan_in", "normal", tuple(range(n)), tuple(range(n, len(axes)))
  )
  boxed = nn.with_logical_partitioning
  kernel = module.param(
    name, boxed(init, axes), (*inputs, *outputs), jnp.float32
  )
  y = _contract(x, kernel, n)
  if not rank:
    return y
  # One factor is zero at the start, so policy == reference bit for bit.
  down_init = boxed(
    nn.initializers.normal(math.prod(inputs) ** -0.5), (*axes[:n], "lora")
  )
  up_init = boxed(nn.initializers.zeros, ("lora", *axes[n:]))
  factor = lambda part, init, shape: (
    module.variable(
      "lora",
      f"{name}_{part}",
      lambda: init(module.make_rng("params"), shape, jnp.float32),
    ).value
  )
  down = factor("down", down_init, (*inputs, rank))
  up = factor("up", up_init, (rank, *outputs))
  low = _contract(x, down, n)
  return y + scale * _contract(low, up, 1)


def _contract(x, w, n):
  dims = (tuple(range(x.ndim - n, x.ndim)), tuple(range(n)))
  return lax.dot_general(x, w.astype(x.dtype), (dims, ((), ())))


class Attention(nn.Module):
  config: TransformerConfig
  lora: tuple[int, float]

  @nn.compact
  def __call__(self, x, places, cache, key_places, slot):
    c = self.config
    into = lambda heads, axis, name: project(
      self, name, x, (c.width,), (heads, c.head_dim), ("embed", axis, "head")
    )
    q = rotate(into(c.heads, "heads", "query"), places.positions, c.rope_theta)
    k = into(c.kv_heads, "kv_heads", "key")
    k = rotate(k, places.positions, c.rope_theta)
    v = into(c.kv_heads, "kv_heads", "value")
    if cache is not None:
      put = lambda old, new: lax.dynamic_update_slice_in_dim(
        old, new.astype(old.dtype), slot, axis=1
      )
      cache = (put(cache[0], k), put(cache[1], v))
      k, v = cache
    out = attention(q, k, v, places, key_places)
    ends = ("heads", "head", "embed")
    out = project(self, "out", out, (c.heads, c.head_dim), (c.width,), ends)
    return out, cache


class MLP(nn.Module):
  config: TransformerConfig
  lora: tuple[int, float]

  @nn.compact
  def __call__(self, x):
    c = self.config
    wide = lambda name: project(
      self, name, x, (c.width,), (c.mlp_width,), ("embed", "mlp")
    )
    hidden = nn.silu(wide("gate")) * wide("up")
    return project(
      self, "down", hidden, (c.mlp_width,), (c.width,), ("mlp", "embed")
    )


class Block(nn.Module):
  config: TransformerConfig
  lora: tuple[int, float]

  @nn.compact
  def __call__(self, x, cache, places, key_places, slot):
    eps = self.config.norm_eps
    x = nn.with_logical_constraint(x, ("rows", None, None))
    y, cache = Attention(self.config, self.lora, name="attention")(
      RMSNorm(eps, name="attention_norm")(x), places, cache, key_places, slot
    )
    x = x + y
    y = MLP(self.config, self.lora, name="mlp")(
      RMSNorm(eps, name="mlp_norm")(x)
    )
    return x + y, cache


class Embed(nn.Module):
  """Token table [V, D]."""

  config: TransformerConfig

  @nn.compact
  def __call__(self, tokens: Array, dtype) -> Array:
    c = self.config
    table = self.param(
      "embedding",
      nn.with_logical_partitioning(
        nn.initializers.normal(0.02), ("vocab", "embed")
      ),
      (c.vocab_size, c.width),
      jnp.float32,
    )
    x = jnp.take(table, tokens, axis=0).astype(dtype)
    # Without this the partitioner replicates a table sharded on both axes.
    return nn.with_logical_constraint(x, ("rows", None, None))


class Transformer(nn.Module):
  """Blocks first..last of a decoder; embeds if first == 0.

  The final norm belongs to the last block's part, the untied head's kernel to
  the first's (it is read by `logps`, never applied here).
  """

  config: TransformerConfig
  first: int
  last: int
  lora: tuple[int, float] = (0, 1.0)
  dtype: jnp.dtype = jnp.float32
  remat: bool = True

  @nn.compact
  def __call__(
    self,
    x: Array,
    places: Places,
    cache: Cache | None = None,
    key_places: Places | None = None,
    slot: Array | int = 0,
  ) -> tuple[Array, Cache | None]:
    """tokens [R, L] (or states [R, L, D]) -> states [R, L, D], cache."""
    c = self.config
    if self.first == 0:
      x = Embed(c, name="embed")(x, self.dtype)
      if not c.tied:
        Head(c, name="head")()
    x = x.astype(self.dtype)
    block = nn.remat(Block, prevent_cse=False) if self.remat else Block
    scan = nn.scan(
      block,
      variable_axes={"params": 0, "lora": 0},
      split_rngs={"params": True},
      in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
      length=self.last - self.first,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    key_places = places if key_places is None else key_places
    layers = None if cache is None else (cache.key, cache.value)
    x, layers = scan(c, self.lora, name="blocks")(
      x, layers, places, key_places, slot
    )
    if self.last == c.layers:
      x = RMSNorm(c.norm_eps, name="final_norm")(x)
    return x, None if layers is None else Cache(*layers)


class Head(nn.Module):
  """The untied vocabulary kernel [D, V]."""

  config: TransformerConfig

  @nn.compact
  def __call__(self) -> Array:
    c = self.config
    init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
    return self.param(
      "kernel",
      nn.with_logical_partitioning(init, ("embed", "vocab")),
      (c.width, c.vocab_size),
      jnp.float32,
    )


def init_cache(
  config: TransformerConfig, layers: int, rows: int, slots: int, dtype
) -> Cache:
  """An empty cache of `slots` places a row."""
  shape = (layers, rows, slots, config.kv_heads, config.head_dim)
  return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def slice_layers(tree: PyTree, first: int, last: int) -> PyTree:
  """Layers first..last of stacked blocks."""
  return jax.tree.map(lambda x: x[first:last], tree)
