"""Whole trees of weights merged tensor by tensor, in numpy.

A tensor is a leaf of the tree, of a stacked block leaf one layer. Its entries
are computed in float64, CHUNK at a time, and nothing whole is held but the
trees that came in: what needs the whole vector (the trim's threshold, the sign
of the majority) is counted in passes, and `tree` has leaves that are computed
when they are read.

A tensor that a model left as it was is no part of that model's vector, so that
a density means the same with frozen blocks and without; one that no model moved
is the base's, to the bit.
"""

from collections.abc import Iterator, Mapping
import dataclasses
from fractions import Fraction
import math
from typing import NamedTuple

import numpy as np

from xpo_jax import merging
from xpo_jax.merging import Operator, Recipe
from xpo_jax.types import PyTree

CHUNK = 2**22  # entries
_BINS = 2**16


class Place(NamedTuple):
  """A tensor: a leaf of the tree, or one layer of it."""

  path: tuple[str, ...]
  layer: int | None


@dataclasses.dataclass(frozen=True)
class Cut:
  """Which entries a trim keeps: the bits of |delta| as float32 decide.

  All above `bits` [K], and of those equal to it the first `ties[start]` [K] in
  the chunk that begins at `start`.
  """

  bits: np.ndarray
  ties: dict[tuple[Place, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Merge:
  """A merge, ready to compute any tensor by itself."""

  base: PyTree
  sources: tuple[PyTree, ...]
  recipe: Recipe
  number: dict[Place, int]  # of the tensors to compute, in the tree's order
  cuts: dict[Place, Cut] = dataclasses.field(default_factory=dict)
  majority: float = 1.0

  @property
  def weights(self) -> np.ndarray:
    return np.array(self.recipe.weights or (1.0,) * len(self.sources))


def places(tree: Mapping) -> list[Place]:
  """All tensors, keys in sorted order; layers of `blocks` one by one."""

  def walk(node, path):
    if isinstance(node, Mapping):
      for key in sorted(node):
        yield from walk(node[key], (*path, key))
    elif path[0] == "blocks":
      yield from (Place(path, layer) for layer in range(node.shape[0]))
    else:
      yield Place(path, None)

  return list(walk(tree, ()))


def _leaf(tree: PyTree, path: tuple[str, ...]):
  for key in path:
    tree = tree[key]
  return tree


def _flat(tree: PyTree, place: Place) -> np.ndarray:
  leaf = _leaf(tree, place.path)
  if place.layer is not None:
    leaf = leaf[place.layer : place.layer + 1]
  return np.asarray(leaf).reshape(-1)


def _raw_pieces(merge: Merge, place: Place):
  """(first entry, theta_0 [n], deltas [K, n]) of a tensor's chunks, float64."""
  start = _flat(merge.base, place)
  thetas = [_flat(source, place) for source in merge.sources]
  for first in range(0, start.size, CHUNK):
    part = slice(first, first + CHUNK)
    zero = start[part].astype(np.float64)
    yield (
      first,
      zero,
      np.stack([t[part].astype(np.float64) for t in thetas]) - zero,
    )


def _dropped(merge: Merge, place: Place, first: int, deltas: np.ndarray):
  recipe = merge.recipe
  if recipe.operator not in merging.DROPS:
    return deltas
  noise = np.random.default_rng([recipe.seed, merge.number[place], first])
  kept = noise.random(deltas.shape, np.float32) >= recipe.drop
  return merging.drop_and_rescale(deltas, kept, recipe.drop)


def _deltas(merge: Merge, place: Place) -> Iterator[tuple[int, np.ndarray]]:
  for first, _, deltas in _raw_pieces(merge, place):
    yield first, _dropped(merge, place, first, deltas)


def _from_top(counts: np.ndarray, keep: int) -> tuple[int, int]:
  """(the bin that the keep-th from the top is in, how many of it are kept)."""
  above = np.cumsum(counts[::-1])
  i = int(np.searchsorted(above, keep))
  return len(counts) - 1 - i, keep - int(above[i] - counts[::-1][i])


def _cut(merge: Merge, where: list[Place]) -> Cut:
  """Exact thresholds of the entries of some tensors, in three passes.

  Two count the upper and the lower half of the bits, so that no sort and no
  copy of the vector is needed; the third shares out the entries at the
  threshold, lower index first.
  """
  count = len(merge.sources)
  densities = merge.recipe.densities or (1.0,) * count
  upper = np.zeros((count, _BINS), np.int64)
  lower, sizes = np.zeros_like(upper), np.zeros(count, np.int64)
  for place in where:
    moved, size = np.zeros(count, bool), 0
    for _, deltas in _deltas(merge, place):
      moved |= np.any(deltas != 0, axis=1)
      size += deltas.shape[1]
      for k in range(count):
        upper[k] += np.bincount(
          merging.size_bits(deltas[k]) >> 16, minlength=_BINS
        )
    sizes += moved * size
  keep = [
    math.floor(Fraction(str(p)) * int(n)) for p, n in zip(densities, sizes)
  ]
  high, rest = zip(*map(_from_top, upper, keep))
  for place in where:
    for _, deltas in _deltas(merge, place):
      for k in range(count):
        own = merging.size_bits(deltas[k])
        own = own[own >> 16 == high[k]] & (_BINS - 1)
        lower[k] += np.bincount(own, minlength=_BINS)
  low, rest = zip(*map(_from_top, lower, rest))
  bits = np.array([(h << 16) | n for h, n in zip(high, low)], np.uint32)
  left, ties = np.array(rest), {}
  for place in where:
    for first, deltas in _deltas(merge, place):
      equal = np.sum(merging.size_bits(deltas) == bits[:, None], axis=1)
      ties[place, first] = np.minimum(equal, left)
      left = left - ties[place, first]
  return Cut(bits, ties)


def _trimmed(merge: Merge, place: Place, first: int, deltas: np.ndarray):
  cut = merge.cuts[place]
  ties = cut.ties[place, first]
  return np.stack([merging.trim(*one) for one in zip(deltas, cut.bits, ties)])


def _moved(base: PyTree, sources: tuple[PyTree, ...], place: Place) -> bool:
  start = _flat(base, place)
  return not all(np.array_equal(_flat(s, place), start) for s in sources)


def prepare(base: PyTree, sources: tuple[PyTree, ...], recipe: Recipe) -> Merge:
  """Counts what a merge needs of the whole vectors.

  Args:
    base: theta_0; leaves are numpy arrays, or give one to `np.asarray`.
    sources: theta_k, trees of the same shapes.
    recipe: the operator; weights and densities are () or one a source.
  """
  sources = tuple(sources)
  number = {
    place: i
    for i, place in enumerate(places(base))
    if not recipe.normalise or _moved(base, sources, place)
  }
  merge = Merge(base, sources, recipe, number)
  if recipe.operator not in merging.TRIMS:
    return merge
  if recipe.trim_scope == "tensor":
    cuts = {p: _cut(merge, [p]) for p in merge.number}
    return dataclasses.replace(merge, cuts=cuts)
  cuts = dict.fromkeys(merge.number, _cut(merge, list(merge.number)))
  merge, balance = dataclasses.replace(merge, cuts=cuts), 0.0
  for place in merge.number:
    for first, deltas in _deltas(merge, place):
      trimmed = _trimmed(merge, place, first, deltas)
      balance += np.sum(merging.elected_signs(trimmed, merge.weights))
  return dataclasses.replace(merge, majority=float(np.sign(balance) or 1.0))


def pieces(
  merge: Merge, place: Place
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Chunks of a merged tensor of `merge.number`, float64.

  Yields:
    (theta_0 [n], deltas [K, n] of the sources as they are, theta [n]); entries
    that no source changes are theta_0's own, to the bit, unless SLERP turns the
    weights themselves.
  """
  recipe, weights, turned = merge.recipe, merge.weights, False
  arc = _arc(merge, place) if recipe.operator is Operator.SLERP else None
  if arc is not None and recipe.space == "weights":
    turned = tuple(arc) != (1.0 - recipe.t, recipe.t)
  for first, start, raw in _raw_pieces(merge, place):
    deltas = _dropped(merge, place, first, raw)
    match recipe.operator:
      case Operator.LINEAR | Operator.DARE_LINEAR:
        thetas = start + deltas
        theta = merging.linear(thetas, weights, recipe.normalise)
      case Operator.TASK_ARITHMETIC:
        theta = merging.task_arithmetic(start, deltas, weights, recipe.scale)
      case Operator.TIES | Operator.DARE_TIES:
        kept = _trimmed(merge, place, first, deltas)
        mean = merging.disjoint_mean(kept, weights, merge.majority)
        theta = start + recipe.scale * mean
      case Operator.SLERP:
        origin = _origin(merge, start)
        theta = arc @ (start - origin + deltas) + origin
    # Not normalised, theta_0 counts sum_k w_k times; turned, the sum of arc.
    if recipe.normalise and not turned:
      theta = np.where(np.any(deltas != 0, axis=0), theta, start)
    yield start, raw, theta


def _origin(merge: Merge, start: np.ndarray) -> np.ndarray:
  """Where SLERP's vectors start: at 0 for weights, at theta_0 for deltas."""
  return start if merge.recipe.space == "deltas" else np.zeros_like(start)


def _arc(merge: Merge, place: Place) -> np.ndarray:
  """SLERP's factors [2] of a tensor."""
  gram = np.zeros((2, 2))
  for _, start, deltas in _raw_pieces(merge, place):
    vectors = start - _origin(merge, start) + deltas
    gram += vectors @ vectors.T
  first, second = np.sqrt(np.diag(gram))
  t = merge.recipe.t
  return np.array(merging.slerp_weights(gram[0, 1], first, second, t))


def tensor(merge: Merge, place: Place) -> np.ndarray:
  """A merged tensor in the base's dtype; of a layer, without a layer axis."""
  leaf = _leaf(merge.base, place.path)
  if place not in merge.number:
    flat = _flat(merge.base, place)
  else:
    flat = np.concatenate([theta for *_, theta in pieces(merge, place)])
  shape = leaf.shape if place.layer is None else leaf.shape[1:]
  return flat.astype(leaf.dtype).reshape(shape)


@dataclasses.dataclass(frozen=True)
class Leaf:
  """A merged leaf: computed, layer by layer, by `np.asarray`."""

  merge: Merge
  path: tuple[str, ...]
  shape: tuple[int, ...]
  first: int = 0  # layer of a stacked leaf

  def __getitem__(self, part: slice) -> "Leaf":
    first, last, _ = part.indices(self.shape[0])
    shape = (last - first, *self.shape[1:])
    return dataclasses.replace(self, shape=shape, first=self.first + first)

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    if self.path[0] != "blocks":
      value = tensor(self.merge, Place(self.path, None))
    else:
      layers = range(self.first, self.first + self.shape[0])
      value = np.stack(
        [tensor(self.merge, Place(self.path, n)) for n in layers]
      )
    return value if dtype is None else value.astype(dtype)


def tree(merge: Merge) -> PyTree:
  """The merged parameters; the leaves are computed when they are read."""

  def build(node, path):
    if isinstance(node, Mapping):
      return {key: build(node[key], (*path, key)) for key in node}
    return Leaf(merge, path, tuple(node.shape))

  return build(merge.base, ())
