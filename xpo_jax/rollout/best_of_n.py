"""Best-of-n: draw n completions, keep the one with the highest score."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from xpo_jax.errors import usage_error
from xpo_jax.rollout import select
from xpo_jax.types import Array, Samples


def best(samples: Samples, scores: Array, n: int = 0) -> tuple[Samples, Array]:
  """The best of the first n completions of every prompt.

  Args:
    samples: [B, K, S].
    scores: [B, K]; what is not finite is never chosen; of equals the first is.
    n: 1..K; 0 is K.

  Returns:
    Samples [B, 1, S] and int32 [B] which it was, -1 (and the first one) if
    a prompt has no finite score.

  Raises:
    XpoError: n out of range.
  """
  _check(n, scores.shape[1], least=0)
  scores = scores[:, : n or None]
  found = select.best_of_n(scores, jnp.ones(scores.shape, bool))
  index, kept = found.index[:, 0], found.kept[:, 0, 0]
  pick = lambda x: jnp.take_along_axis(
    x, index.reshape(-1, *[1] * (x.ndim - 1)), axis=1
  )
  chosen = jnp.where(kept, index[:, 0], -1)
  return jax.tree.map(pick, samples), chosen


def expected_best(scores: np.ndarray, n: int) -> np.ndarray:
  """[B, K] -> [B]: the mean score of the best of n, over all n-subsets of K.

  sum_i C(i - 1, n - 1) / C(K, n) s_(i) over ascending scores: unbiased, and of
  less variance than one subset.

  Raises:
    XpoError: n not in 1..K.
  """
  count = scores.shape[1]
  _check(n, count, least=1)
  share = [math.comb(i, n - 1) / math.comb(count, n) for i in range(count)]
  return np.sort(np.asarray(scores, float), axis=1) @ np.array(share)


def kl(n: int) -> float:
  """log n - (n - 1) / n: KL(best-of-n || policy) in nats if no scores tie.

  An upper bound otherwise. Source: Stiennon et al., arXiv 2009.01325, G.3.
  """
  return math.log(n) - (n - 1) / n


def _check(n, count, least):
  if not least <= n <= count:
    raise usage_error(
      f"best-of-n: n={n} with {count} completions a prompt; give {least}"
      f"..{count}"
    )
