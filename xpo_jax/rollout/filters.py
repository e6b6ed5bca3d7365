"""From logits to a token: temperature, then top-k, then top-p, then a draw.

Pure functions; the noise is an argument. Source: methods.md 0.7.
"""

import jax
from jax import lax
import jax.numpy as jnp

from xpo_jax.rollout import noise
from xpo_jax.types import Array


def choose(
  logits: Array,
  uniform: Array,
  temperature: float,
  top_p: float,
  top_k: int = 0,
) -> tuple[Array, Array]:
  """A token and its log-prob, both [...].

  Args:
    logits: float32 [..., V].
    uniform: [...] in [0, 1).
    temperature: 0 is greedy: no filter, ties to the lowest id, and the
      log-prob is that of temperature 1.
    top_p: in (0, 1].
    top_k: 0 keeps all.

  Returns:
    The log-prob is that of the distribution drawn from: at this temperature,
    renormalised over what the filters keep.
  """
  if temperature > 0:
    logits = filter_top_k(logits / temperature, top_k)
    logits = filter_top_p(logits, top_p)
  # One exponential a logit serves the draw and the log-prob.
  top = jnp.max(logits, axis=-1, keepdims=True)
  mass = jnp.exp(logits - top)
  if temperature == 0:
    token = jnp.argmax(logits, axis=-1)
  else:
    token = noise.inverse_cdf(mass, uniform)
  chosen = jnp.take_along_axis(logits - top, token[..., None], axis=-1)[..., 0]
  return token, chosen - jnp.log(jnp.sum(mass, axis=-1))


def filter_top_k(logits: Array, top_k: int) -> Array:
  """Keeps the k largest, of equals the lower ids; the rest is -inf."""
  if not 0 < top_k < logits.shape[-1]:
    return logits
  return _keep_first(logits, jnp.ones_like(logits), float(top_k))


def filter_top_p(logits: Array, top_p: float) -> Array:
  """Keeps the smallest sorted prefix of mass >= top_p; the rest is -inf.

  The token that crosses top_p is kept; ties go to the lower id.
  """
  if top_p >= 1.0:
    return logits
  return _keep_first(logits, jax.nn.softmax(logits, axis=-1), top_p)


def _keep_first(logits, weights, target):
  """Keeps the largest logits until their weights reach the target.

  The logit of the last one is found bit by bit, in 32 sums: a sort of a whole
  vocabulary costs five times as much.
  """
  keys = _ordered(logits)
  sums = lambda x: jnp.sum(x, axis=-1, keepdims=True)

  def add_bit(i, last):
    trial = last | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
    enough = sums(jnp.where(keys >= trial, weights, 0.0)) >= target
    return jnp.where(enough, trial, last)

  last = lax.fori_loop(0, 32, add_bit, jnp.zeros_like(keys[..., :1]))
  tie, above = keys == last, keys > last
  ties = jnp.where(tie, weights, 0.0)
  before = sums(jnp.where(above, weights, 0.0)) + jnp.cumsum(ties, -1) - ties
  return jnp.where(above | (tie & (before < target)), logits, -jnp.inf)


def _ordered(x):
  """uint32 in the order of the floats."""
  bits = lax.bitcast_convert_type(x.astype(jnp.float32) + 0.0, jnp.uint32)
  sign = jnp.uint32(1 << 31)
  return jnp.where(bits & sign != 0, ~bits, bits | sign)
