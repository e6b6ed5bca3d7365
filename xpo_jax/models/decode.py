"""One token a slot through the whole model: the sampler's forward pass.

Training keeps the layers stacked and scans them; a step of the sampler would
copy every weight and cache out of its stack. So the weights are laid out anew
once a rollout, layer by layer and cast to the compute dtype, and the same
blocks run unrolled.

Letters: as in `slots`, and D width, V vocabulary.
"""

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp

from xpo_jax.models import heads
from xpo_jax.models import model as lm
from xpo_jax.models.layers import Norm
from xpo_jax.models.model import Model, Weights
from xpo_jax.models.slots import SlotCache, SlotPlaces
from xpo_jax.models.transformer import Block, Embed, Places
from xpo_jax.types import Array, PyTree

_SHARED_AXES = ("rows", None, "kv_heads", None, None)
_OWN_AXES = ("rows", "kv_heads", None, None)


@struct.dataclass
class Decoder:
  """Weights as a step reads them."""

  embed: PyTree
  layers: tuple[PyTree, ...]  # variables of one block each
  norm: PyTree
  head: Array  # [D, V]
  has_lora: bool = struct.field(pytree_node=False, default=False)


def prepare(model: Model, weights: Weights) -> Decoder:
  """Lays the weights out; on a mesh they are gathered over `fsdp`, once."""
  specs = {}
  if jax.sharding.get_abstract_mesh().shape:
    specs["params"] = lm.specs(model)["blocks"]
    if weights.lora is not None:
      specs["lora"] = lm.lora_specs(model)["blocks"]
  layers = []
  if model.trunk_blocks:
    params = {"params": weights.trunk["blocks"]}
    layers += _unstack(model, params, model.trunk_blocks, specs)
  params = {"params": weights.top["blocks"]}
  if weights.lora is not None:
    params["lora"] = weights.lora["blocks"]
  top = model.config.layers - model.trunk_blocks
  layers += _unstack(model, params, top, specs)
  holder = weights.trunk if model.trunk_blocks else weights.top
  axes = {"embedding": ("vocab", None), "positions": (None, None)}
  embed = {
    name: nn.with_logical_constraint(table.astype(model.dtype), axes[name])
    for name, table in holder["embed"].items()
  }
  return Decoder(
    embed=embed,
    layers=tuple(layers),
    norm=weights.top["final_norm"],
    head=nn.with_logical_constraint(
      lm.head_kernel(model, weights).astype(model.dtype), (None, "vocab")
    ),
    has_lora=weights.lora is not None,
  )


def _unstack(model, variables, count, specs):
  """Per-layer variables; norms stay float32, as they are read so."""
  variables = lm.compact(variables, model.dtype)

  def place(x, spec):
    """Of a layer: a stack that is gathered would lie beside its layers."""
    axes = [None if name == "embed" else name for name in spec[1:]]
    return nn.with_logical_constraint(x, tuple(axes))

  def pick(i):
    own = jax.tree.map(lambda x: x[i], variables)
    return {
      kind: jax.tree.map(place, tree, specs[kind]) if kind in specs else tree
      for kind, tree in own.items()
    }

  return [pick(i) for i in range(count)]


def prefill(
  model: Model, decoder: Decoder, prompts: Array, lengths: Array
) -> list[tuple[Array, Array]]:
  """Keys [B, G, C, P] and values [B, G, P, C] of prompts, a pair a layer.

  Args:
    model: sizes.
    decoder: of `prepare`, so that a mesh gathers the weights no second time.
    prompts: int32 [B, P], padded on the right with anything.
    lengths: int32 [B].
  """
  c, (count, width) = model.config, prompts.shape
  at = jnp.broadcast_to(jnp.arange(width), prompts.shape)
  inside = (at < lengths[:, None]).astype(jnp.int32)
  # Padding must not reach past a table of learned positions: NaN times 0.
  at = jnp.minimum(at, lengths[:, None] - 1)
  places = Places(at, inside, jnp.zeros_like(at))
  blank = jnp.zeros((count, width, c.kv_heads, c.head_dim), model.dtype)
  caches = [(blank, blank)] * c.layers
  _, caches = _run(model, decoder, prompts, places, caches)
  return [
    (jnp.transpose(key, (0, 2, 3, 1)), jnp.transpose(value, (0, 2, 1, 3)))
    for key, value in caches  # of [B, P, G, C]
  ]


def empty_caches(
  model: Model, rows: int, prompts: int, width: int, slots: int, steps: int
) -> list[SlotCache]:
  """A cache a layer: `prompts` of `width` places, `slots` of `steps` a row."""
  c = model.config
  zeros = lambda axes, *shape: nn.with_logical_constraint(
    jnp.zeros(shape, model.dtype), axes
  )
  shared = (rows, prompts, c.kv_heads)
  own = (rows * slots, c.kv_heads)
  return [
    SlotCache(
      zeros(_SHARED_AXES, *shared, c.head_dim, width),
      zeros(_SHARED_AXES, *shared, width, c.head_dim),
      zeros(_OWN_AXES, *own, c.head_dim, steps),
      zeros(_OWN_AXES, *own, steps, c.head_dim),
    )
    for _ in range(c.layers)
  ]


def step(
  model: Model,
  decoder: Decoder,
  tokens: Array,
  places: SlotPlaces,
  caches: list[SlotCache],
) -> tuple[Array, list[SlotCache]]:
  """tokens [R, Z] -> float32 logits [R, Z, V] of the next, and the caches."""
  c = model.config
  x, caches = _run(model, decoder, tokens, places, caches)
  x = Norm(c.norm, c.norm_eps).apply({"params": decoder.norm}, x)
  logits = heads.logits(x, decoder.head, c.logit_cap)
  # In two steps, or the head is gathered at every token, not the logits. Then
  # every device has the whole vocabulary of its share of the slots.
  logits = nn.with_logical_constraint(logits, ("rows", None, "vocab"))
  return nn.with_logical_constraint(logits, ("rows", "slots", None)), caches


def _run(
  model: Model,
  decoder: Decoder,
  tokens: Array,
  places: Places | SlotPlaces,
  caches: list[SlotCache] | list[tuple[Array, Array]],
):
  """tokens [R, L] -> states [R, L, D] before the last norm, and the caches."""
  c, dtype = model.config, jnp.dtype(model.dtype)
  x = Embed(c).apply({"params": decoder.embed}, tokens, places.positions, dtype)
  x = x.astype(dtype)
  lora = model.lora if decoder.has_lora else (0, 1.0)
  done = []
  for i, (variables, cache) in enumerate(zip(decoder.layers, caches)):
    block = Block(c, lora if i >= model.trunk_blocks else (0, 1.0))
    windowed = jnp.asarray(c.windowed[i]) if any(c.windowed) else None
    x, cache = block.apply(variables, x, cache, windowed, places, places, 0)
    done.append(cache)
  return x, done
