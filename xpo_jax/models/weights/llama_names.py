"""The one name table of the Llama family: Hugging Face name <-> tree path.

A Hugging Face linear layer is [out, in]; the tree's kernels are [in, out] with
the heads split off (see `models/transformer.py`) and the layers stacked on
axis 0. Letters: N layers, D width, H heads, G kv heads, C head width, F MLP
width, V vocabulary.
"""

from collections.abc import Callable, Mapping
import math
from typing import NamedTuple

import numpy as np

from xpo_jax.errors import checkpoint_error
from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.types import PyTree


class Leaf(NamedTuple):
  """One parameter: its names, and its shapes in letters."""

  name: str  # Hugging Face; {} is the layer
  path: tuple[str, ...]
  file_shape: tuple[str, ...]  # a word multiplies: "HC" = heads * head width
  tree_shape: str  # of one layer
  turned: bool  # the file holds the transpose


def _scale(name: str, *path: str) -> Leaf:
  return Leaf(name, path, ("D",), "D", False)


def _linear(name: str, path: tuple[str, ...], out: str, into: str, shape: str):
  return Leaf(name, path, (out, into), shape, True)


_LAYER = "model.layers.{}."
LLAMA = (
  Leaf(
    "model.embed_tokens.weight", ("embed", "embedding"), ("V", "D"), "VD", False
  ),
  _scale(
    _LAYER + "input_layernorm.weight", "blocks", "attention_norm", "scale"
  ),
  _linear(
    _LAYER + "self_attn.q_proj.weight",
    ("blocks", "attention", "query"),
    "HC",
    "D",
    "DHC",
  ),
  _linear(
    _LAYER + "self_attn.k_proj.weight",
    ("blocks", "attention", "key"),
    "GC",
    "D",
    "DGC",
  ),
  _linear(
    _LAYER + "self_attn.v_proj.weight",
    ("blocks", "attention", "value"),
    "GC",
    "D",
    "DGC",
  ),
  _linear(
    _LAYER + "self_attn.o_proj.weight",
    ("blocks", "attention", "out"),
    "D",
    "HC",
    "HCD",
  ),
  _scale(
    _LAYER + "post_attention_layernorm.weight", "blocks", "mlp_norm", "scale"
  ),
  _linear(
    _LAYER + "mlp.gate_proj.weight", ("blocks", "mlp", "gate"), "F", "D", "DF"
  ),
  _linear(
    _LAYER + "mlp.up_proj.weight", ("blocks", "mlp", "up"), "F", "D", "DF"
  ),
  _linear(
    _LAYER + "mlp.down_proj.weight", ("blocks", "mlp", "down"), "D", "F", "FD"
  ),
  _scale("model.norm.weight", "final_norm", "scale"),
  _linear("lm_head.weight", ("head", "kernel"), "V", "D", "DV"),
)
EMBEDDING, HEAD = LLAMA[0].name, LLAMA[-1].name


def leaves(config: TransformerConfig) -> tuple[Leaf, ...]:
  """The rows of the table that a model of these sizes has."""
  return LLAMA[:-1] if config.tied else LLAMA


def names(leaf: Leaf, config: TransformerConfig) -> list[str]:
  """The leaf's Hugging Face names: one, or one a layer."""
  if "{}" not in leaf.name:
    return [leaf.name]
  return [leaf.name.format(i) for i in range(config.layers)]


def file_shape(leaf: Leaf, config: TransformerConfig) -> tuple[int, ...]:
  """Shape of one tensor in a Hugging Face file."""
  sizes = _sizes(config)
  return tuple(
    math.prod(sizes[letter] for letter in word) for word in leaf.file_shape
  )


def expected(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
  """{Hugging Face name: shape} of a whole model."""
  table = leaves(config)
  return {n: file_shape(x, config) for x in table for n in names(x, config)}


def to_tree(
  read: Callable[[str], np.ndarray], config: TransformerConfig
) -> PyTree:
  """Builds the parameter tree (numpy float32), one tensor after another.

  Args:
    read: name -> array of the shape that `expected` says.
    config: the model's sizes.
  """
  tree = {}
  for leaf in leaves(config):
    shape = _tree_shape(leaf, config)
    all_names = names(leaf, config)
    stacked = "{}" in leaf.name
    full = (len(all_names), *shape) if stacked else shape
    value = np.empty(full, np.float32)
    for i, name in enumerate(all_names):
      x = np.asarray(read(name))
      target = value[i] if stacked else value
      target[...] = (x.T if leaf.turned else x).reshape(shape)
    _put(tree, leaf.path, value)
  return tree


def from_tree(
  params: Mapping, config: TransformerConfig
) -> dict[str, np.ndarray]:
  """{Hugging Face name: array} of a parameter tree; undoes `to_tree`.

  Raises:
    XpoError: (66) a leaf is missing or has another shape.
  """
  tensors = {}
  for leaf in leaves(config):
    value = _take(params, leaf.path)
    shape = _tree_shape(leaf, config)
    all_names = names(leaf, config)
    stacked = "{}" in leaf.name
    full = (len(all_names), *shape) if stacked else shape
    if value is None or value.shape != full:
      raise checkpoint_error(
        f"parameter {'/'.join(leaf.path)}:"
        f" {'missing' if value is None else f'shape {value.shape}'}, the config"
        f" says {full}"
      )
    out = file_shape(leaf, config)
    for i, name in enumerate(all_names):
      x = np.asarray(value[i] if stacked else value)
      x = x.reshape(out[::-1]).T if leaf.turned else x
      tensors[name] = np.ascontiguousarray(x)
  return tensors


def _sizes(config: TransformerConfig) -> dict[str, int]:
  return dict(
    V=config.vocab_size,
    D=config.width,
    H=config.heads,
    G=config.kv_heads,
    C=config.head_dim,
    F=config.mlp_width,
  )


def _tree_shape(leaf: Leaf, config: TransformerConfig) -> tuple[int, ...]:
  return tuple(_sizes(config)[letter] for letter in leaf.tree_shape)


def _put(tree: dict, path: tuple[str, ...], value: np.ndarray) -> None:
  for key in path[:-1]:
    tree = tree.setdefault(key, {})
  tree[path[-1]] = value


def _take(tree: Mapping, path: tuple[str, ...]):
  for key in path:
    if not isinstance(tree, Mapping) or key not in tree:
      return None
    tree = tree[key]
  return tree
