"""How far merged models have moved from their base, and where they disagree."""

from typing import NamedTuple

import numpy as np

from xpo_jax import merged

MOVED = 1e-5  # |delta| below it counts as none


class Measures(NamedTuple):
  """Of the sources' deltas and, last, the merged one (n = K + 1).

  Entries are those of tensors that at least one source moved (all of a linear
  merge that is not normalised). Statistics without any entry are NaN.
  """

  sparsity: np.ndarray  # [n], share of |delta| < MOVED
  norm: np.ndarray  # [n], Euclidean
  cosine: np.ndarray  # [n, n]
  conflict: float  # of entries that 2 or more sources move: signs differ


def measure(merge: merged.Merge) -> Measures:
  """Compares the deltas of a merge: the sources', as they are, and its own."""
  count = len(merge.sources) + 1
  gram, small = np.zeros((count, count)), np.zeros(count)
  entries = shared = conflicts = 0
  for place in merge.number:
    for start, deltas, theta in merged.pieces(merge, place):
      every = np.concatenate([deltas, [theta - start]])
      gram += every @ every.T
      small += np.sum(np.abs(every) < MOVED, axis=1)
      entries += every.shape[1]
      far = np.abs(deltas) >= MOVED
      up = np.any(far & (deltas > 0), axis=0)
      shared += np.sum(np.sum(far, axis=0) > 1)
      conflicts += np.sum(up & np.any(far & (deltas < 0), axis=0))
  norm = np.sqrt(np.diag(gram))
  with np.errstate(divide="ignore", invalid="ignore"):
    cosine = gram / np.outer(norm, norm)
    return Measures(
      sparsity=small / np.float64(entries),
      norm=norm,
      cosine=cosine,
      conflict=float(np.float64(conflicts) / shared),
    )
