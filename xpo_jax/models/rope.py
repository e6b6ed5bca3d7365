"""Rotary position embeddings, half-split, with scaled and partial variants."""

import math

import jax.numpy as jnp
import numpy as np

from xpo_jax.models.architecture import RopeScaling, TransformerConfig
from xpo_jax.types import Array


def layer_rope(
  config: TransformerConfig, windowed: Array | None
) -> tuple[Array, Array | float] | None:
  """(frequencies, magnitude) of a layer for `rotate`; None without rope.

  Args:
    config: sizes.
    windowed: scalar, whether the layer is windowed; None if no layer is.
  """
  c = config
  size = c.head_dim if c.rotary_dim is None else c.rotary_dim
  if not size:
    return None
  whole = frequencies(size, c.rope_theta, c.rope_scaling)
  magnitude = c.rope_scaling.magnitude if c.rope_scaling else 1.0
  if windowed is None or not c.window_rope_theta:
    return whole, magnitude
  own = frequencies(size, c.window_rope_theta)
  pick = lambda a, b: jnp.where(windowed, a, b)
  return pick(own, whole), pick(1.0, magnitude) if magnitude != 1.0 else 1.0


def frequencies(
  size: int, theta: float, scaling: RopeScaling | None = None
) -> Array:
  """Radians a token [size / 2] of the pairs in `size` places of a head."""
  half = size // 2
  if scaling is None:
    return theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  plain = theta ** (-np.arange(half) / half)
  keep = {"linear": _none, "llama3": _by_turns, "yarn": _by_place}
  kept = keep[scaling.kind](plain, theta, scaling)
  scaled = kept * plain + (1 - kept) * plain / scaling.factor
  return jnp.asarray(scaled, jnp.float32)


def _none(plain, theta, scaling):
  return np.zeros_like(plain)


def _by_turns(plain, theta, scaling):
  """The share kept grows linearly in the turns."""
  turns = scaling.original_length * plain / (2 * np.pi)
  return np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)


def _by_place(plain, theta, scaling):
  """The share kept falls linearly from the place of `high` to that of `low`."""
  half = len(plain)

  def place(turns):
    ratio = scaling.original_length / (2 * math.pi * turns)
    return half * math.log(ratio) / math.log(theta)

  first, last = place(scaling.high), place(scaling.low)
  if scaling.truncate:
    first, last = math.floor(first), math.ceil(last)
  first, last = max(first, 0), min(last, 2 * half - 1)
  last += 0.001 if first == last else 0.0
  return 1 - np.clip((np.arange(half) - first) / (last - first), 0, 1)


def rotate(
  x: Array,
  positions: Array,
  frequency: Array,
  magnitude: Array | float = 1.0,
) -> Array:
  """Turns the pairs (i, i + half) of x; places past 2 * half stay.

  Args:
    x: [R, L, H, C].
    positions: [R, L].
    frequency: [half], 2 * half <= C.
    magnitude: factor of what is turned.

  Returns:
    [R, L, H, C] in x's dtype; computed in float32.
  """
  half = frequency.shape[0]
  angle = positions[..., None].astype(jnp.float32) * frequency[None, None]
  cos, sin = jnp.cos(angle)[:, :, None], jnp.sin(angle)[:, :, None]
  if not (isinstance(magnitude, float) and magnitude == 1.0):
    cos, sin = cos * magnitude, sin * magnitude
  a = x[..., :half].astype(jnp.float32)
  b = x[..., half : 2 * half].astype(jnp.float32)
  parts = [a * cos - b * sin, b * cos + a * sin]
  if 2 * half < x.shape[-1]:
    parts.append(x[..., 2 * half :].astype(jnp.float32))
  return jnp.concatenate(parts, axis=-1).astype(x.dtype)
