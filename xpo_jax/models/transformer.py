"""A decoder-only transformer over packed rows with shared prompts.

One decoder for all families: what they vary is data (`architecture.py`).

Letters: R rows, L queries a row, S keys a row, D width, H query heads, G key
heads, C head width, F MLP width, N layers.
"""

import functools

from flax import linen as nn
from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from xpo_jax.models.architecture import TransformerConfig
from xpo_jax.models.attention import Places, attention
from xpo_jax.models.layers import Norm, project
from xpo_jax.models.rope import layer_rope, rotate
from xpo_jax.models.slots import SlotCache, attend
from xpo_jax.types import Array, PyTree

EVERYTHING = 2**30  # positions: the window of a layer without one
ACTIVATIONS = {
  "silu": nn.silu,
  "gelu": functools.partial(nn.gelu, approximate=False),
  "gelu_tanh": functools.partial(nn.gelu, approximate=True),
}


@struct.dataclass
class Cache:
  """Keys and values of every layer and the places of their slots."""

  key: Array  # [N, R, S, G, C]
  value: Array  # [N, R, S, G, C]


class Attention(nn.Module):
  config: TransformerConfig
  lora: tuple[int, float]

  @nn.compact
  def __call__(self, x, places, cache, windowed, key_places, slot):
    c = self.config
    into = lambda heads, axis, name: project(
      self,
      name,
      x,
      (c.width,),
      (heads, c.head_dim),
      ("embed", axis, "head"),
      c.biases != "none",
    )
    q = into(c.heads, "heads", "query")
    k = into(c.kv_heads, "kv_heads", "key")
    v = into(c.kv_heads, "kv_heads", "value")
    if c.qk_norm:
      q = Norm(c.norm, c.norm_eps, name="query_norm")(q)
      k = Norm(c.norm, c.norm_eps, name="key_norm")(k)
    rope = layer_rope(c, windowed)
    if rope is not None:
      q = rotate(q, places.positions, *rope)
      k = rotate(k, places.positions, *rope)
    window = None
    if windowed is not None:
      window = jnp.where(windowed, c.window, EVERYTHING)
    scale = c.query_scalar**-0.5 if c.query_scalar else None
    if isinstance(cache, SlotCache):
      out, cache = attend(
        q, k, v, cache, places, window, scale, c.attention_cap
      )
    else:
      if cache is not None:
        put = lambda old, new: lax.dynamic_update_slice_in_dim(
          old, new.astype(old.dtype), slot, axis=1
        )
        cache = (put(cache[0], k), put(cache[1], v))
        k, v = cache
      out = attention(
        q,
        k,
        v,
        places,
        key_places,
        window=window,
        scale=scale,
        cap=c.attention_cap,
      )
    ends = ("heads", "head", "embed")
    inner, bias = (c.heads, c.head_dim), c.biases == "all"
    return project(self, "out", out, inner, (c.width,), ends, bias), cache


class MLP(nn.Module):
  config: TransformerConfig
  lora: tuple[int, float]

  @nn.compact
  def __call__(self, x):
    c = self.config
    bias = c.biases == "all"
    wide = lambda name: project(
      self, name, x, (c.width,), (c.mlp_width,), ("embed", "mlp"), bias
    )
    activation = ACTIVATIONS[c.activation]
    if c.gated:
      hidden = activation(wide("gate")) * wide("up")
    else:
      hidden = activation(wide("up"))
    return project(
      self, "down", hidden, (c.mlp_width,), (c.width,), ("mlp", "embed"), bias
    )


class Block(nn.Module):
  config: TransformerConfig
  lora: tuple[int, float]

  @nn.compact
  def __call__(self, x, cache, windowed, places, key_places, slot):
    c = self.config
    norm = lambda name: Norm(c.norm, c.norm_eps, name=name)
    after = lambda name, y: norm(name)(y) if c.post_norms else y
    x = nn.with_logical_constraint(x, ("rows", None, None))
    y, cache = Attention(c, self.lora, name="attention")(
      norm("attention_norm")(x), places, cache, windowed, key_places, slot
    )
    y = after("attention_post_norm", y)
    mlp = MLP(c, self.lora, name="mlp")
    if c.parallel_blocks:
      return x + y + mlp(norm("mlp_norm")(x)), cache
    x = x + y
    y = after("mlp_post_norm", mlp(norm("mlp_norm")(x)))
    return x + y, cache


class Embed(nn.Module):
  """Token table [V, D], and the table of positions if they are learned."""

  config: TransformerConfig

  @nn.compact
  def __call__(self, tokens: Array, positions: Array, dtype) -> Array:
    c = self.config
    x = self._look_up("embedding", c.vocab_size, "vocab", tokens, dtype)
    if c.embedding_scale:
      x = x * jnp.asarray(c.width**0.5, dtype)
    if c.learned_positions:
      x = x + self._look_up("positions", c.max_length, None, positions, dtype)
    # Without this the partitioner replicates a table sharded on both axes.
    return nn.with_logical_constraint(x, ("rows", None, None))

  def _look_up(self, name, size, axis, index, dtype):
    init = nn.with_logical_partitioning(
      nn.initializers.normal(0.02), (axis, "embed")
    )
    table = self.param(name, init, (size, self.config.width), jnp.float32)
    return jnp.take(table, index, axis=0).astype(dtype)


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
      x = Embed(c, name="embed")(x, places.positions, self.dtype)
      if not c.tied:
        Head(c, name="head")()
    x = x.astype(self.dtype)
    block = nn.remat(Block, prevent_cse=False) if self.remat else Block
    scan = nn.scan(
      block,
      variable_axes={"params": 0, "lora": 0},
      split_rngs={"params": True},
      in_axes=(0, 0, nn.broadcast, nn.broadcast, nn.broadcast),
      length=self.last - self.first,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    key_places = places if key_places is None else key_places
    layers = None if cache is None else (cache.key, cache.value)
    windowed = None
    if any(c.windowed):
      windowed = jnp.asarray(c.windowed[self.first : self.last])
    x, layers = scan(c, self.lora, name="blocks")(
      x, layers, windowed, places, key_places, slot
    )
    if self.last == c.layers:
      x = Norm(c.norm, c.norm_eps, name="final_norm")(x)
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
