"""Orders and pairs among the K completions of a prompt.

Same layer as `ops`. Absent completions are in no pair and in no order.
"""

import jax
import jax.numpy as jnp

from xpo_jax.types import Array, LossInputs


def better_pairs(score: Array, present: Array) -> Array:
  """[B, K] -> bool [B, K, K]: present i scores strictly more than present j."""
  both = present[:, :, None] & present[:, None, :]
  return both & (score[:, :, None] > score[:, None, :])


def ahead(score: Array, present: Array) -> Array:
  """[B, K] -> bool [B, K, K]: i comes before j in descending order.

  A total order of the present completions: of equals the lower index is first.
  """
  place = jnp.arange(score.shape[-1])
  first = (place[:, None] < place[None, :])[None]
  both = present[:, :, None] & present[:, None, :]
  tie = both & (score[:, :, None] == score[:, None, :]) & first
  return better_pairs(score, present) | tie


def plackett_luce(logits: Array, order: Array) -> Array:
  """[B, K]: -log of picking k first out of k and those that come after it.

  Args:
    logits: [B, K, K] of item i in the round of k: [b, k, i].
    order: bool [B, K, K] of `ahead`; the last one's loss is 0.
  """
  eye = jnp.eye(order.shape[-1], dtype=bool)[None]
  field = jnp.where(order | eye, logits, -jnp.inf)
  own = jnp.sum(jnp.where(eye, logits, 0.0), axis=-1)
  return jax.nn.logsumexp(field, axis=-1) - own


def best_completion(x: LossInputs) -> Array:
  """int [B]: the present one of the highest feedback, first of equals."""
  return jnp.argmax(jnp.where(x.present, x.feedback, -jnp.inf), axis=-1)


def pick(x: Array, index: Array) -> Array:
  """[B, K, T] -> [B, T]: one completion a prompt, index [B]."""
  return jnp.take_along_axis(x, index[:, None, None], axis=1)[:, 0]


def symmetrised(wins: Array) -> Array:
  """P(i beats j) [..., K, K] from a judge that sees both orders.

  wins[i, j] is its P(i beats j) with i shown first; the result adds up to 1
  with its transpose and is 1/2 on the diagonal.
  """
  return (wins + 1 - wins.swapaxes(-1, -2)) / 2
