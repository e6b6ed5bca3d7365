"""Per-token numbers that need the whole vocabulary, chunk by chunk.

Log-probs alone have their own faster path, heads.token_logps. Here one pass
over the logits gives log-probs and everything else that a method asks for;
each chunk is recomputed in the backward pass, so that no [R, M, V] array is
ever kept.

Letters: R rows, M targets a row, m targets a chunk, D width, V vocabulary.
"""

import math

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from xpo_jax.models.heads import CHUNK_TOKENS, chunk_size, logits
from xpo_jax.types import Array

STATISTICS = frozenset(
  (
    "entropy log_collision token_kl:forward token_kl:reverse token_kl:js "
    "contrast_logps"
  ).split()
)


def statistics(
  hidden: Array,
  kernel: Array,
  targets: Array,
  wants: frozenset[str],
  *,
  reference: tuple[Array, Array] | None = None,
  uniform: Array | None = None,
  alternatives: int = 1,
  cap: float = 0.0,
  temperature: float = 1.0,
  chunk_tokens: int = CHUNK_TOKENS,
) -> dict[str, Array]:
  """Log-probs and the wanted statistics of every target, float32 [R, M].

  logps: log p(target). entropy: -sum p log p. log_collision: log sum p^2.
  token_kl:forward is KL(ref || p), :reverse KL(p || ref), :js the mean of both
  KLs to (p + ref) / 2. contrast_logps: log p of one of the k likeliest tokens
  other than the target, drawn in proportion to p among them; the draw itself
  carries no gradient.

  Args:
    hidden: [R, M, D], states before the targets.
    kernel: [D, V].
    targets: int32 [R, M].
    wants: names out of STATISTICS; beside a token_kl also "reference_logps",
      log ref(target).
    reference: the reference's (hidden, kernel) for token_kl; frozen.
    uniform: [R, M] in [0, 1), the noise of contrast_logps.
    alternatives: k >= 1 of contrast_logps.
    cap: soft cap of the logits; 0: none.
    temperature: > 0; all are of softmax(logits / temperature).
    chunk_tokens: tokens (rows x m) whose logits exist on a device at once.

  Returns:
    {"logps": .., every wanted name: ..}; nats.
  """
  rows, count = targets.shape
  size = chunk_size(rows, count, chunk_tokens)
  chunks = math.ceil(count / size)
  pad = chunks * size - count

  def split(x):
    x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(rows, chunks, size, *x.shape[2:]), 1, 0)

  # One gather of a sharded kernel, outside of the loop over chunks.
  whole = lambda w: nn.with_logical_constraint(
    w.astype(hidden.dtype), (None, "vocab")
  )
  kernel = whole(kernel)
  xs = {"hidden": split(hidden), "targets": split(targets)}
  base = None
  if any(name.startswith("token_kl") for name in wants):
    base = whole(lax.stop_gradient(reference[1]))
    xs["reference"] = split(lax.stop_gradient(reference[0]))
  if "contrast_logps" in wants:
    xs["uniform"] = split(uniform)

  def log_softmax(x, kernel):
    found = logits(x, kernel, cap)
    found = found if temperature == 1 else found / temperature
    return jax.nn.log_softmax(found, axis=-1)

  @jax.checkpoint
  def chunk(kernel, xs):
    logp = log_softmax(xs["hidden"], kernel)
    found = {"logps": _at(logp, xs["targets"])}
    if base is not None:
      logref = log_softmax(xs["reference"], base)
      logref = lax.stop_gradient(logref)
      found |= _divergences(logp, logref, wants)
      if "reference_logps" in wants:
        found["reference_logps"] = _at(logref, xs["targets"])
    if "entropy" in wants:
      found["entropy"] = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
    if "log_collision" in wants:
      found["log_collision"] = jax.nn.logsumexp(2 * logp, axis=-1)
    if "contrast_logps" in wants:
      other = contrast(logp, xs["targets"], xs["uniform"], alternatives)
      found["contrast_logps"] = _at(logp, other)
    return found

  _, found = lax.scan(lambda _, xs: (None, chunk(kernel, xs)), None, xs)
  join = lambda x: jnp.moveaxis(x, 0, 1).reshape(rows, -1)[:, :count]
  return {name: join(x) for name, x in found.items()}


def _at(x, index):
  return jnp.take_along_axis(x, index[..., None], axis=-1)[..., 0]


def _divergences(logp, logref, wants):
  kl = lambda a, b: jnp.sum(jnp.exp(a) * (a - b), axis=-1)
  found = {}
  if "token_kl:forward" in wants:
    found["token_kl:forward"] = kl(logref, logp)
  if "token_kl:reverse" in wants:
    found["token_kl:reverse"] = kl(logp, logref)
  if "token_kl:js" in wants:
    middle = jnp.logaddexp(logp, logref) - jnp.log(2.0)
    found["token_kl:js"] = (kl(logp, middle) + kl(logref, middle)) / 2
  return found


def contrast(logp: Array, targets: Array, uniform: Array, k: int) -> Array:
  """Token ids [...]: one of the k likeliest other than the target.

  Args:
    logp: [..., V].
    targets: [...], never drawn.
    uniform: [...] in [0, 1): place on the cumulative mass of the k.
    k: >= 1; 1 is greedy.
  """
  logp = lax.stop_gradient(logp)
  hit = lax.broadcasted_iota(targets.dtype, logp.shape, logp.ndim - 1)
  others = jnp.where(hit == targets[..., None], -jnp.inf, logp)
  values, ids = lax.top_k(others, k)
  level = jnp.cumsum(jax.nn.softmax(values, axis=-1), axis=-1)
  drawn = jnp.sum(level <= uniform[..., None] * level[..., -1:], axis=-1)
  return _at(ids, jnp.minimum(drawn, k - 1))
