"""Operators that merge models, on some entries of one tensor, in numpy.

theta_0 is the model that all sources theta_k started from, delta_k = theta_k -
theta_0 their task vectors, w_k their weights. `merged` runs these over whole
trees of weights.
"""

import dataclasses
import enum
import math

import numpy as np

_PARALLEL = 0.9995  # cosine above which SLERP is a straight line
_SHORT = 1e-8  # norm below which it is one, too


class Operator(enum.Enum):
  """How deltas become one."""

  LINEAR = "linear"
  TASK_ARITHMETIC = "task_arithmetic"
  TIES = "ties"
  DARE_LINEAR = "dare_linear"
  DARE_TIES = "dare_ties"
  SLERP = "slerp"


TRIMS = (Operator.TIES, Operator.DARE_TIES)
DROPS = (Operator.DARE_LINEAR, Operator.DARE_TIES)


@dataclasses.dataclass(frozen=True)
class Recipe:
  """An operator with its keywords; each says which operators read it.

  weights: w_k, a number a model; not slerp.
  normalise: divide by their sum; linear, dare_linear.
  scale: lambda; task_arithmetic, ties, dare_ties.
  densities: share of entries that each model keeps; ties, dare_ties.
  trim_scope: "vector", the largest of the whole vector, or "tensor", of each
    tensor (and signs that cancel out become + there); ties, dare_ties.
  drop: p, the share of entries that is dropped; dare_linear, dare_ties.
  seed: of the drops.
  t: 0 is the first model, 1 the second; slerp.
  space: "weights" or "deltas"; slerp.
  """

  operator: Operator
  weights: tuple[float, ...] = ()
  normalise: bool = True
  scale: float = 1.0
  densities: tuple[float, ...] = ()
  trim_scope: str = "vector"
  drop: float = 0.9
  seed: int = 0
  t: float = 0.5
  space: str = "weights"


# The operators, on the entries of one chunk: [n], [K, n] -> [n].


def linear(
  thetas: np.ndarray, weights: np.ndarray, normalise: bool = True
) -> np.ndarray:
  """sum_k w_k theta_k, divided by sum_k w_k if `normalise`."""
  total = weights @ thetas
  return total / np.sum(weights) if normalise else total


def task_arithmetic(
  start: np.ndarray, deltas: np.ndarray, weights: np.ndarray, scale: float
) -> np.ndarray:
  """theta_0 + lambda sum_k w_k delta_k. Source: arXiv 2212.04089."""
  return start + scale * (weights @ deltas)


def drop_and_rescale(
  deltas: np.ndarray, kept: np.ndarray, drop: float
) -> np.ndarray:
  """DARE: M delta / (1 - p), whose mean is delta. Source: arXiv 2311.03099.

  Args:
    deltas: any shape.
    kept: bool, M; each is True with probability 1 - p.
    drop: p in [0, 1).
  """
  return np.where(kept, deltas, 0.0) / (1.0 - drop)


def elected_signs(trimmed: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """sign(sum_k w_k delta_k): -1, 0 or 1 an entry."""
  return np.sign(weights @ trimmed)


def disjoint_mean(
  trimmed: np.ndarray, weights: np.ndarray, majority: float
) -> np.ndarray:
  """Weighted mean of the entries that have the elected sign, 0 without any.

  Args:
    trimmed: [K, n]; zeros take no part.
    weights: [K].
    majority: the sign where entries cancel out.

  Source: TIES, arXiv 2306.01708.
  """
  signs = elected_signs(trimmed, weights)
  signs = np.where(signs == 0, majority, signs)
  agree = (trimmed != 0) & (np.sign(trimmed) == signs)
  shares = np.where(agree, weights[:, None], 0.0)
  total = np.sum(shares, axis=0)
  mean = np.sum(shares * trimmed, axis=0)
  return np.divide(mean, total, out=np.zeros_like(mean), where=total != 0)


def slerp_weights(
  dot: float, first: float, second: float, t: float
) -> tuple[float, float]:
  """Factors of two tensors: sin((1-t) w) / sin w and sin(t w) / sin w.

  w is the angle between them; close to a straight line they are 1 - t and t.

  Args:
    dot: their inner product.
    first: norm of the first.
    second: norm of the second.
    t: 0 gives (1, 0), 1 gives (0, 1).
  """
  if min(first, second) < _SHORT:
    return 1.0 - t, t
  cosine = min(1.0, max(-1.0, dot / (first * second)))
  if abs(cosine) > _PARALLEL:
    return 1.0 - t, t
  angle = math.acos(cosine)
  return (
    math.sin((1.0 - t) * angle) / math.sin(angle),
    math.sin(t * angle) / math.sin(angle),
  )


def trim(
  delta: np.ndarray, bits: int | np.integer, ties: int | np.integer
) -> np.ndarray:
  """Zeros all entries of [n] but those above `bits` and the first `ties` at it.

  Args:
    delta: [n].
    bits: of a float32 >= 0, as an integer.
    ties: entries to keep of those whose |delta| has these bits.
  """
  own = size_bits(delta)
  keep = own > bits
  keep[np.flatnonzero(own == bits)[:ties]] = True
  return np.where(keep, delta, 0.0)


def size_bits(delta: np.ndarray) -> np.ndarray:
  """|delta| as float32: the bits, as an integer, are in the same order."""
  return np.abs(delta).astype(np.float32).view(np.uint32)
