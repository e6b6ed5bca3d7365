"""Noise of sampled tokens, and what it draws.

The noise of a token depends on (key, prompt row, branch, step) only: neither
the batch's layout nor the number of devices nor the slot that a completion
happens to sit in changes a token.
"""

import jax
import jax.numpy as jnp

from xpo_jax.types import Array

BUCKET = 256  # width of the inner step of the two-level inverse CDF


def uniforms(key: Array, rows: Array, branches: Array, steps: int) -> Array:
  """Uniform numbers in [0, 1) [..., S], one for each (row, branch, step).

  Args:
    key: of the rollout.
    rows: int32 [...] global prompt numbers.
    branches: int32 [...] 0..K-1.
    steps: S, tokens to draw at most.
  """

  def draw(row, branch):
    own = jax.random.fold_in(jax.random.fold_in(key, row), branch)
    fold = lambda step: jax.random.uniform(jax.random.fold_in(own, step))
    return jax.vmap(fold)(jnp.arange(steps))

  flat = jax.vmap(draw)(rows.reshape(-1), branches.reshape(-1))
  return flat.reshape(*rows.shape, steps)


def inverse_cdf(p: Array, uniform: Array) -> Array:
  """p [..., V], uniform [...] in [0, 1) -> int [...], never where p is 0.

  p is in any unit: it need not sum to 1. Two levels, first the bucket, then the
  token inside it: one uniform a token and sums of at most a few hundred
  numbers, cheaper than V Gumbels, and float32 rounding stays inside a bucket.
  """
  size = p.shape[-1]
  pad = -size % BUCKET
  p = jnp.pad(p, [(0, 0)] * (p.ndim - 1) + [(0, pad)])
  p = p.reshape(*p.shape[:-1], -1, BUCKET)
  mass = jnp.sum(p, axis=-1)
  level = jnp.cumsum(mass, axis=-1)
  target = (uniform * level[..., -1])[..., None]
  bucket = _first_above(level, mass, target)
  below = jnp.take_along_axis(level - mass, bucket, axis=-1)
  inner = jnp.take_along_axis(p, bucket[..., None], axis=-2)[..., 0, :]
  token = _first_above(jnp.cumsum(inner, axis=-1), inner, target - below)
  return (bucket * BUCKET + token)[..., 0]


def _first_above(level, mass, target):
  """First index whose level exceeds target and whose mass is positive."""
  good = (level > target) & (mass > 0)
  last = (
    mass.shape[-1]
    - 1
    - jnp.argmax((mass > 0)[..., ::-1], axis=-1, keepdims=True)
  )
  first = jnp.argmax(good, axis=-1, keepdims=True)
  return jnp.where(jnp.any(good, axis=-1, keepdims=True), first, last)
