"""Pieces of blocks: norms, projections with biases and LoRA, soft caps."""

import math

from flax import linen as nn
from jax import lax
import jax.numpy as jnp

from xpo_jax.types import Array


def soft_cap(x: Array, cap: float) -> Array:
  """cap * tanh(x / cap), within (-cap, cap); cap 0 leaves x as it is."""
  return cap * jnp.tanh(x / cap) if cap else x


class Norm(nn.Module):
  """Normalises the last axis in float32.

  rms: x / rms(x) * scale. rms_plus_one: x / rms(x) * (1 + scale).
  layer: (x - mean) / deviation * scale + bias.
  """

  kind: str
  eps: float

  @nn.compact
  def __call__(self, x: Array) -> Array:
    first = nn.initializers.ones
    if self.kind == "rms_plus_one":
      first = nn.initializers.zeros
    scale = self._vector("scale", first, x)
    y = x.astype(jnp.float32)
    if self.kind == "layer":
      y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
    if self.kind == "rms_plus_one":
      scale = 1.0 + scale
    y = y * scale
    if self.kind == "layer":
      y = y + self._vector("bias", nn.initializers.zeros, x)
    return y.astype(x.dtype)

  def _vector(self, name, init, x):
    init = nn.with_logical_partitioning(init, ("norm",))
    value = self.param(name, init, (x.shape[-1],), jnp.float32)
    return value[(None,) * (x.ndim - 1)]


def project(
  module: nn.Module,
  name: str,
  x: Array,
  inputs: tuple[int, ...],
  outputs: tuple[int, ...],
  axes: tuple[str, ...],
  bias: bool = False,
) -> Array:
  """x [..., *inputs] @ kernel [*inputs, *outputs] (+ low-rank part, + bias).

  Declares the kernel (with its LoRA factors and bias) as parameters of
  `module`, whose field `lora` is (rank, scale).
  """
  n = len(inputs)
  rank, scale = module.lora
  init = nn.initializers.variance_scaling(
    1.0, "fan_in", "normal", tuple(range(n)), tuple(range(n, len(axes)))
  )
  boxed = nn.with_logical_partitioning
  kernel = module.param(
    name, boxed(init, axes), (*inputs, *outputs), jnp.float32
  )
  y = _contract(x, kernel, n)
  if rank:
    y = y + scale * _low_rank(module, name, x, inputs, outputs, axes)
  if bias:
    init = boxed(nn.initializers.zeros, axes[n:])
    value = module.param(f"{name}_bias", init, outputs, jnp.float32)
    y = y + value.astype(y.dtype)[(None,) * (y.ndim - len(outputs))]
  return y


def _low_rank(module, name, x, inputs, outputs, axes):
  n, rank = len(inputs), module.lora[0]
  boxed = nn.with_logical_partitioning
  # One factor is zero at the start, so policy == reference bit for bit.
  down_init = boxed(
    nn.initializers.normal(math.prod(inputs) ** -0.5), (*axes[:n], "lora")
  )
  up_init = boxed(nn.initializers.zeros, ("lora", *axes[n:]))
  factor = lambda part, init, shape: (
    module.variable(
      "lora",
      f"{name}_{part}",
      lambda: init(module.make_rng("params"), shape, jnp.float32),
    ).value
  )
  down = factor("down", down_init, (*inputs, rank))
  up = factor("up", up_init, (rank, *outputs))
  return _contract(_contract(x, down, n), up, 1)


def _contract(x, w, n):
  dims = (tuple(range(x.ndim - n, x.ndim)), tuple(range(n)))
  return lax.dot_general(x, w.astype(x.dtype), (dims, ((), ())))
