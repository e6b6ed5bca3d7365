"""Models small enough to check by hand, and random data for them."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from xpo_jax.data import packing, planning
from xpo_jax.data.records import TokenGroup
from xpo_jax.models import model as lm
from xpo_jax.models.model import Model, Weights
from xpo_jax.models.transformer import Places, TransformerConfig
from xpo_jax.types import Feedback

CONFIG = TransformerConfig(
  vocab_size=53,
  width=16,
  layers=3,
  heads=4,
  kv_heads=2,
  head_dim=6,
  mlp_width=24,
  rope_theta=50.0,
  norm_eps=1e-3,
  tied=False,
  max_length=96,
)
TIED = dataclasses.replace(CONFIG, tied=True)


def params(config: TransformerConfig = CONFIG, seed: int = 0):
  """Random parameters, large enough that errors show; numpy float32."""
  noise = np.random.default_rng(seed)

  def draw(path, leaf):
    value = noise.standard_normal(leaf.shape)
    name = jax.tree_util.keystr(path)
    if "scale" in name:
      value = 1 + 0.3 * value
    elif "embed" not in name:
      value = 1.5 * value / np.sqrt(config.width)
    return value.astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, _shapes(config))


@functools.cache
def _shapes(config):
  make = lambda: nn.unbox(lm.init(Model(config), jax.random.key(0)))
  return jax.eval_shape(make)


def weights(model: Model, whole) -> Weights:
  """The parameters of a whole model, split as `model` says."""
  return Weights(*lm.split(whole, model.trunk_blocks))


def lora(model: Model, up: float = 0.0, seed: int = 0):
  """LoRA factors of `model`; `up` is the size of the usually zero factor."""
  noise = np.random.default_rng(seed)
  make = lambda: nn.unbox(lm.init_lora(model, jax.random.key(0)))

  def draw(path, leaf):
    size = up if "_up" in jax.tree_util.keystr(path) else 0.3
    return (size * noise.standard_normal(leaf.shape)).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(make))


def group(name, prompt, *completions, **fields) -> TokenGroup:
  """A TokenGroup; prompt and completions are lists of token ids."""
  count = len(completions)
  return TokenGroup(
    id=name,
    cluster="",
    prompt=np.array(prompt, np.int32),
    completions=tuple(np.array(c, np.int32) for c in completions),
    ended=(True,) * count,
    feedback=(1.0,) + (0.0,) * (count - 1),
    kind=Feedback.ORDER,
    **fields,
  )


def random_group(noise, name, prompt, *completions) -> TokenGroup:
  """Random tokens; prompt and completions are lengths."""
  draw = lambda n: noise.integers(0, CONFIG.vocab_size, n)
  return group(name, draw(prompt), *[draw(n) for n in completions])


def pairs(count: int, seed: int = 0) -> list[TokenGroup]:
  """Groups of two completions, all lengths random."""
  noise = np.random.default_rng(seed)
  return [
    random_group(noise, f"pairs:{n + 1}", *noise.integers(1, 8, 3))
    for n in range(count)
  ]


def pack(groups, kind=Feedback.ORDER, row_length=32, prompts=0, **extra):
  """One batch of all the groups, as jax arrays."""
  shape = planning.plan_in_order(
    planning.group_lengths(groups),
    prompts=prompts or len(groups),
    row_length=row_length,
  ).shape
  return on_device(packing.pack(groups, shape, kind, **extra))


def one_row(*groups):
  """Slots of groups in one row [1, L] in the order given, branches named.

  A group is (prompt, [(branch, completion), ..]); two slots of padding follow.
  """
  tokens, position, group, branch = [], [], [], []
  for number, (prompt, completions) in enumerate(groups, 1):
    for k, part in [(0, prompt), *completions]:
      start = 0 if k == 0 else len(prompt)
      tokens += list(part)
      position += range(start, start + len(part))
      group += [number] * len(part)
      branch += [k] * len(part)
  pad = lambda x: np.array([x + [0, 0]], np.int32)
  return pad(tokens), Places(pad(position), pad(group), pad(branch))


def on_device(batch):
  return jax.tree.map(jnp.asarray, batch)


def assert_near(found, wanted, limit=1e-5):
  """Leaf by leaf: no error above `limit` times the largest wanted number."""
  pairs = zip(
    jax.tree_util.tree_leaves_with_path(found),
    jax.tree_util.tree_leaves_with_path(wanted),
    strict=True,
  )
  for (path, a), (other, b) in pairs:
    assert path == other
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape and np.isfinite(a).all()
    gap, size = np.abs(a - b).max(initial=0), np.abs(b).max(initial=0)
    assert gap <= limit * size, (jax.tree_util.keystr(path), gap, size)
