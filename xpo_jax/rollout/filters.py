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
  if temperature == 0:
    token = jnp.argmax(logits, axis=-1)
  else:
    logits = filter_top_k(logits / temperature, top_k)
    logits = filter_top_p(logits, top_p)
    token = noise.inverse_cdf(jax.nn.softmax(logits, axis=-1), uniform)
  chosen = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
  return token, chosen - jax.nn.logsumexp(logits, axis=-1)


def filter_top_k(logits: Array, top_k: int) -> Array:
  """Keeps the k largest, of equals the lower ids; the rest is -inf."""
  if not 0 < top_k < logits.shape[-1]:
    return logits
  last = lax.top_k(logits, top_k)[0][..., -1:]
  return _keep_first(logits, last, top_k)


def filter_top_p(logits: Array, top_p: float) -> Array:
  """Keeps the smallest sorted prefix of mass >= top_p; the rest is -inf.

  The token that crosses top_p is kept; ties go to the lower id.
  """
  if top_p >= 1.0:
    return logits
  order = jnp.sort(logits, axis=-1, descending=True)
  p = jax.nn.softmax(order, axis=-1)
  count = jnp.sum(jnp.cumsum(p, axis=-1) - p < top_p, axis=-1, keepdims=True)
  last = jnp.take_along_axis(order, count - 1, axis=-1)
  return _keep_first(logits, last, count)


def _keep_first(logits, last, count):
  """Keeps what exceeds `last` and so many of its equals that `count` remain."""
  above, tie = logits > last, logits == last
  room = count - jnp.sum(above, axis=-1, keepdims=True)
  keep = above | (tie & (jnp.cumsum(tie, axis=-1) <= room))
  return jnp.where(keep, logits, -jnp.inf)
