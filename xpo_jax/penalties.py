"""Penalties on trainable weights, added to a loss once a step."""

from collections.abc import Callable

import jax
from jax import lax
import jax.numpy as jnp

from xpo_jax.types import Array, PyTree

TARGETS = ("delta", "factors")


def lora_l1(lora: PyTree, scale: float, target: str = "delta") -> Array:
  """L1 norm of low-rank changes: a sum, not a mean.

  delta: sum over adapted matrices of sum |scale A B|, A = down [.., r], B = up
  [r, ..]; of 0 the subgradient is 0. factors: sum |A| + |B|. One layer's matrix
  at a time is in memory, in the backward pass too.

  Args:
    lora: {"blocks": {layer: {name_down, name_up}}}, stacked on axis 0.
    scale: alpha / rank.
    target: one of TARGETS.

  Source: PAFT, arXiv 2406.17923.
  """
  if target == "factors":
    sizes = [_l1(x) for x in jax.tree.leaves(lora)]
    return jnp.sum(jnp.stack(sizes))
  total = 0.0
  for factors in lora["blocks"].values():
    for name in (n for n in factors if n.endswith("_down")):
      pair = factors[name], factors[name.removesuffix("_down") + "_up"]
      total += scale * _product_l1(*pair)
  return total


def _l1(x: Array) -> Array:
  # Of jnp.abs jax takes 1 as the slope at 0.
  return jnp.sum(x * lax.stop_gradient(jnp.sign(x)))


def _product_l1(down: Array, up: Array) -> Array:
  """sum |A B| over all layers."""

  @jax.checkpoint
  def layer(total, factors):
    return total + _l1(jnp.tensordot(*factors, axes=1)), None

  return lax.scan(layer, jnp.zeros((), down.dtype), (down, up))[0]


def make_l1(
  coef: float, scale: float, target: str
) -> Callable[[PyTree], Array] | None:
  """What a step adds to its loss: coef x `lora_l1` of the policy.

  None if coef is 0.
  """
  if not coef:
    return None
  return lambda params: coef * lora_l1(params["policy"]["lora"], scale, target)
