"""A language model as pure functions over (trunk, top, lora) weights.

The first `trunk_blocks` blocks (with the embedding and the head) can be frozen:
then their states are computed once per token and cached, and policy, reference
and reward model share them. With trunk_blocks = 0 the trunk is empty and `top`
is the whole model. LoRA factors live beside `top`; dropping them IS the
reference.
"""

import dataclasses

from flax import linen as nn
from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from xpo_jax.models import heads, transformer
from xpo_jax.models.transformer import (
  Cache,
  Places,
  Transformer,
  TransformerConfig,
  slice_layers,
)
from xpo_jax.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Model:
  """Static description; every function below takes it first."""

  config: TransformerConfig
  trunk_blocks: int = 0
  lora: tuple[int, float] = (0, 1.0)  # rank (0 = off), scale
  dtype: str = "float32"


@struct.dataclass
class Weights:
  trunk: PyTree  # {} when trunk_blocks == 0
  top: PyTree
  lora: PyTree | None = None


def _trunk(model: Model) -> Transformer:
  # No gradient reaches the trunk: nothing to rematerialise.
  return Transformer(
    model.config, 0, model.trunk_blocks, dtype=model.dtype, remat=False
  )


def _top(model: Model, lora: bool) -> Transformer:
  return Transformer(
    model.config,
    model.trunk_blocks,
    model.config.layers,
    lora=model.lora if lora else (0, 1.0),
    dtype=model.dtype,
  )


def init(model: Model, key: Array) -> PyTree:
  """Boxed parameters of the whole model (logical axes in the boxes)."""
  one = jnp.zeros((1, 1), jnp.int32)
  whole = Transformer(model.config, 0, model.config.layers, dtype=model.dtype)
  return whole.init(key, one, Places(one, one + 1, one))["params"]


def init_lora(model: Model, key: Array) -> PyTree:
  """Boxed LoRA factors of the top blocks; every `up` is zero."""
  one = jnp.zeros((1, 1), jnp.int32)
  x = one
  if model.trunk_blocks:
    x = jnp.zeros((1, 1, model.config.width), model.dtype)
  variables = _top(model, True).init(key, x, Places(one, one + 1, one))
  return variables["lora"]


def split(params: PyTree, trunk_blocks: int) -> tuple[PyTree, PyTree]:
  """Whole-model parameters -> (trunk, top)."""
  if not trunk_blocks:
    return {}, params
  trunk = {k: v for k, v in params.items() if k in ("embed", "head")}
  trunk["blocks"] = slice_layers(params["blocks"], 0, trunk_blocks)
  top = {
    "blocks": slice_layers(params["blocks"], trunk_blocks, None),
    "final_norm": params["final_norm"],
  }
  return trunk, top


def join(trunk: PyTree, top: PyTree) -> PyTree:
  """Inverse of `split`."""
  if not trunk:
    return top
  blocks = jax.tree.map(
    lambda a, b: jnp.concatenate([a, b]), trunk["blocks"], top["blocks"]
  )
  return {**trunk, **top, "blocks": blocks}


def merge_lora(model: Model, weights: Weights) -> PyTree:
  """Top parameters with the low-rank parts added in; same logits."""
  if weights.lora is None:
    return weights.top
  blocks = dict(weights.top["blocks"])
  for layer, factors in weights.lora["blocks"].items():
    blocks[layer] = dict(blocks[layer])
    for down_name in (n for n in factors if n.endswith("_down")):
      name = down_name.removesuffix("_down")
      down, up = factors[down_name], factors[f"{name}_up"]
      extra = jax.vmap(lambda a, b: jnp.tensordot(a, b, axes=1))(down, up)
      blocks[layer][name] = blocks[layer][name] + model.lora[1] * extra
  return {**weights.top, "blocks": blocks}


def compact(tree: PyTree, dtype: str) -> PyTree:
  """Weights in the compute type: half the bytes of float32, the same results.

  Kernels and tables are cast to `dtype` wherever they are used; norms compute
  in float32 and keep it.
  """

  def cast(path, leaf):
    norm = any(str(getattr(p, "key", "")).endswith("_norm") for p in path)
    return leaf if norm or leaf.dtype == dtype else leaf.astype(dtype)

  return jax.tree_util.tree_map_with_path(cast, tree)


def trunk_states(
  model: Model, trunk: PyTree, tokens: Array, places: Places
) -> Array:
  """tokens [R, L] -> frozen states [R, L, D]."""
  states, _ = _trunk(model).apply({"params": trunk}, tokens, places)
  return lax.stop_gradient(states)


def hidden(
  model: Model,
  weights: Weights,
  tokens: Array,
  places: Places,
  trunk: Array | None = None,
) -> Array:
  """Final states [R, L, D] of packed rows.

  Args:
    model: sizes.
    weights: trunk, top and optional LoRA factors.
    tokens: int32 [R, L].
    places: who sees whom.
    trunk: cached states [R, L, D] after the frozen blocks, or None.
  """
  x = tokens
  if model.trunk_blocks:
    x = trunk
    if x is None:
      x = trunk_states(model, weights.trunk, tokens, places)
  return _top(model, weights.lora is not None).apply(
    _variables(weights), x, places
  )[0]


def _variables(weights: Weights) -> PyTree:
  if weights.lora is None:
    return {"params": weights.top}
  return {"params": weights.top, "lora": weights.lora}


def head_kernel(model: Model, weights: Weights) -> Array:
  """[D, V]: the untied head or the embedding's transpose."""
  holder = weights.trunk if model.trunk_blocks else weights.top
  if model.config.tied:
    return holder["embed"]["embedding"].T
  return holder["head"]["kernel"]


def logits(model: Model, weights: Weights, states: Array) -> Array:
  """states [R, M, D] -> float32 [R, M, V]; for few positions only."""
  kernel = head_kernel(model, weights).astype(states.dtype)
  return heads.logits(states, kernel, model.config.logit_cap)


def logps(
  model: Model,
  weights: Weights,
  states: Array,
  place: Array,
  target: Array,
  head_is_frozen: bool = False,
  temperature: float = 1.0,
) -> Array:
  """Log-probs [R, M] of `target` read from the states at `place`."""
  return heads.token_logps(
    heads.gather(states, place),
    head_kernel(model, weights),
    target,
    kernel_is_frozen=head_is_frozen,
    cap=model.config.logit_cap,
    temperature=temperature,
  )


def init_caches(
  model: Model, rows: int, slots: int
) -> tuple[Cache | None, Cache]:
  """Empty caches of (trunk, top)."""
  n = model.trunk_blocks
  make = lambda layers: transformer.init_cache(
    model.config, layers, rows, slots, jnp.dtype(model.dtype)
  )
  return (make(n) if n else None), make(model.config.layers - n)


def extend(
  model: Model,
  weights: Weights,
  tokens: Array,
  places: Places,
  caches: tuple[Cache | None, Cache],
  key_places: Places,
  slot: Array | int,
) -> tuple[Array, tuple[Cache | None, Cache]]:
  """Runs new tokens [R, L] at cache slots slot..slot+L, states [R, L, D].

  `key_places` describe all slots, the new ones included; group 0 hides a slot.
  """
  x, trunk_cache = tokens, caches[0]
  if model.trunk_blocks:
    x, trunk_cache = _trunk(model).apply(
      {"params": weights.trunk}, x, places, trunk_cache, key_places, slot
    )
  x, top_cache = _top(model, weights.lora is not None).apply(
    _variables(weights), x, places, caches[1], key_places, slot
  )
  return x, (trunk_cache, top_cache)


def specs(model: Model) -> PyTree:
  """Logical axis names of the whole model's parameters."""
  return nn.get_partition_spec(
    jax.eval_shape(lambda: init(model, jax.random.key(0)))
  )


def lora_specs(model: Model) -> PyTree:
  """Logical axis names of the low-rank factors."""
  return nn.get_partition_spec(
    jax.eval_shape(lambda: init_lora(model, jax.random.key(0)))
  )
