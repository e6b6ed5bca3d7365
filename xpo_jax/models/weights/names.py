"""Hugging Face tensors <-> the parameter tree, as data.

A family's table has one `Row` a kind of tensor. Letters are axes: V vocabulary,
D width, H heads, G kv heads, C head width, F MLP width, P positions, T the
kernels that one file tensor joins (query, key, value). A file's axis is a word:
"HC" is heads * head width, heads outermost. Layers are stacked on axis 0 of the
tree and numbered in the file's names.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from xpo_jax.errors import checkpoint_error
from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.types import PyTree

# (name, a slice of every file axis) -> float32 array
Read = Callable[[str, tuple[slice, ...]], np.ndarray]


class Row(NamedTuple):
  """One kind of tensor: its name, its axes in file and tree, its places."""

  name: str  # Hugging Face; {} is the layer
  file: tuple[str, ...]
  tree: str  # of one layer
  paths: tuple[tuple[str, ...], ...]  # one, or as many as T counts
  aliases: tuple[str, ...] = ()  # other names that are read, never written

  @property
  def stacked(self) -> bool:
    return "{}" in self.name


def row(name: str, file: str, tree: str, paths: str, *aliases: str) -> Row:
  """A row from text: words and paths apart by spaces, path parts by /."""
  split = tuple(tuple(p.split("/")) for p in paths.split())
  return Row(name, tuple(file.split()), tree, split, aliases)


def sizes(config: TransformerConfig, row: Row) -> dict[str, int]:
  """Length of every axis letter."""
  return dict(
    V=config.vocab_size,
    D=config.width,
    H=config.heads,
    G=config.kv_heads,
    C=config.head_dim,
    F=config.mlp_width,
    P=config.max_length,
    T=len(row.paths),
  )


def names(row: Row, config: TransformerConfig) -> list[str]:
  """The row's Hugging Face names: one, or one a layer."""
  if not row.stacked:
    return [row.name]
  return [row.name.format(i) for i in range(config.layers)]


def file_shape(row: Row, config: TransformerConfig) -> tuple[int, ...]:
  """Shape of one tensor in a Hugging Face file."""
  size = sizes(config, row)
  return tuple(math.prod(size[x] for x in word) for word in row.file)


def tree_shape(row: Row, config: TransformerConfig) -> tuple[int, ...]:
  """Shape of one of its parameters in the tree."""
  size = sizes(config, row)
  one = tuple(size[letter] for letter in row.tree)
  return (config.layers, *one) if row.stacked else one


def expected(
  rows: Sequence[Row], config: TransformerConfig
) -> dict[str, tuple[int, ...]]:
  """{Hugging Face name: shape} of a whole model."""
  return {n: file_shape(r, config) for r in rows for n in names(r, config)}


@dataclasses.dataclass(frozen=True)
class Leaf:
  """A parameter in files: slicing reads nothing, `np.asarray` reads the slice.

  So each device's part can be read straight from the files, and a host holds
  no more than that part and one tensor.
  """

  read: Read
  row: Row
  which: int  # of row.paths
  config: TransformerConfig
  box: tuple[tuple[int, int], ...]  # start and end on every tree axis
  dtype: np.dtype = np.dtype(np.float32)  # of what np.asarray gives

  @property
  def shape(self) -> tuple[int, ...]:
    return tuple(end - start for start, end in self.box)

  @property
  def ndim(self) -> int:
    return len(self.box)

  @property
  def size(self) -> int:
    return math.prod(self.shape)

  def astype(self, dtype) -> "Leaf":
    return dataclasses.replace(self, dtype=jnp.dtype(dtype))

  def __getitem__(self, index: slice | tuple[slice, ...]) -> "Leaf":
    index = index if isinstance(index, tuple) else (index,)
    box = list(self.box)
    for axis, part in enumerate(index):
      start, end = box[axis]
      first, last, _ = part.indices(end - start)
      box[axis] = (start + first, start + last)
    return dataclasses.replace(self, box=tuple(box))

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    if not self.row.stacked:
      value = self._one(self.row.name, self.box).astype(self.dtype)
    else:
      value = np.empty(self.shape, self.dtype)
      for i, layer in enumerate(range(*self.box[0])):
        value[i] = self._one(self.row.name.format(layer), self.box[1:])
    return value if dtype is None else value.astype(dtype)

  def _one(self, name, box):
    """The box of one layer. Only slices of a word's first letter read less."""
    size = sizes(self.config, self.row)
    wanted = dict(zip(self.row.tree, box, strict=True))
    wanted["T"] = (self.which, self.which + 1)
    slices, shape, inner = [], [], []
    for first, *rest in self.row.file:
      start, end = wanted[first]
      step = math.prod(size[x] for x in rest)
      slices.append(slice(start * step, end * step))
      shape += [end - start, *(size[x] for x in rest)]
      inner += [slice(None), *(slice(*wanted[x]) for x in rest)]
    x = self.read(name, tuple(slices)).reshape(shape)[tuple(inner)]
    letters = "".join(self.row.file)
    if "T" in letters:
      x = x.squeeze(letters.index("T"))
      letters = letters.replace("T", "")
    return np.ascontiguousarray(
      x.transpose([letters.index(t) for t in self.row.tree])
    )


def tree(read: Read, rows: Sequence[Row], config: TransformerConfig) -> PyTree:
  """The parameter tree; its leaves are unread `Leaf`s."""
  whole = {}
  for r in rows:
    box = tuple((0, n) for n in tree_shape(r, config))
    for which, path in enumerate(r.paths):
      _put(whole, path, Leaf(read, r, which, config, box))
  return whole


def check_tree(
  params: Mapping, rows: Sequence[Row], config: TransformerConfig
) -> None:
  """Refuses a tree whose leaves are not those of the table.

  Raises:
    XpoError: (66) a leaf is missing or has another shape.
  """
  for r in rows:
    wanted = tree_shape(r, config)
    for path in r.paths:
      value = _take(params, path)
      if value is None or tuple(value.shape) != wanted:
        found = "missing" if value is None else f"shape {tuple(value.shape)}"
        raise checkpoint_error(
          f"parameter {'/'.join(path)}: {found}, the config says {wanted}"
        )


def tensors(
  params: Mapping, rows: Sequence[Row], config: TransformerConfig
) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
  """(Hugging Face name, how to make its array); undoes `tree`."""
  for r in rows:
    values = [_take(params, path) for path in r.paths]
    for i, name in enumerate(names(r, config)):
      layer = i if r.stacked else None
      yield name, lambda r=r, v=values, n=layer: _tensor(r, config, v, n)


def _tensor(row, config, values, layer):
  if layer is None:
    parts = [np.asarray(v) for v in values]
  else:
    parts = [np.asarray(v[layer : layer + 1])[0] for v in values]
  letters = "".join(row.file)
  order = [row.tree.index(x) for x in letters if x != "T"]
  parts = [p.transpose(order) for p in parts]
  x = parts[0]
  if "T" in letters:
    x = np.stack(parts, axis=letters.index("T"))
  return np.ascontiguousarray(x.reshape(file_shape(row, config)))


def _put(tree: dict, path: tuple[str, ...], value: Leaf) -> None:
  for key in path[:-1]:
    tree = tree.setdefault(key, {})
  tree[path[-1]] = value


def _take(tree: Mapping, path: tuple[str, ...]):
  for key in path:
    if not isinstance(tree, Mapping) or key not in tree:
      return None
    tree = tree[key]
  return tree
