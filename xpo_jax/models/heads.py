"""Vocabulary log-probs in chunks, and the scalar reward head.

Letters: R rows, M targets a row, m targets a chunk, D width, V vocabulary.
"""

import functools
import math

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from xpo_jax.models.layers import soft_cap
from xpo_jax.types import Array, PyTree

CHUNK_TOKENS = 512  # logits exist for at most this many tokens at once


def gather(hidden: Array, place: Array) -> Array:
  """Row-local gather: hidden [R, L, D], place [R, M] -> [R, M, D]."""
  return jnp.take_along_axis(hidden, place[..., None], axis=1)


def chunk_size(rows: int, count: int, chunk_tokens: int) -> int:
  """Targets of a row in one chunk: `chunk_tokens` tokens on each device."""
  shape = dict(jax.sharding.get_abstract_mesh().shape)
  parts = shape.get("data", 1) * shape.get("fsdp", 1)
  return min(count, max(1, chunk_tokens * parts // rows))


def token_logps(
  hidden: Array,
  kernel: Array,
  targets: Array,
  *,
  kernel_is_frozen: bool = False,
  cap: float = 0.0,
  temperature: float = 1.0,
  chunk_tokens: int = CHUNK_TOKENS,
) -> Array:
  """log softmax(logits / temperature)[target], without any [R, M, V] array.

  Args:
    hidden: [R, M, D], states before the targets.
    kernel: [D, V].
    targets: int32 [R, M].
    kernel_is_frozen: skip the kernel's gradient (it comes out as zeros).
    cap: soft cap of the logits, cap * tanh(logit / cap); 0: none.
    temperature: > 0, that of the sampler for what it has drawn.
    chunk_tokens: tokens (rows x m) whose logits exist on a device at once.

  Returns:
    float32 [R, M], nats. The backward pass recomputes each chunk's logits.
  """
  rows, count = targets.shape
  size = chunk_size(rows, count, chunk_tokens)
  chunks = math.ceil(count / size)
  pad = chunks * size - count
  hidden = jnp.pad(hidden, ((0, 0), (0, pad), (0, 0)))
  targets = jnp.pad(targets, ((0, 0), (0, pad)))
  # One gather of a sharded kernel, outside of the loop over chunks.
  kernel = nn.with_logical_constraint(
    kernel.astype(hidden.dtype), (None, "vocab")
  )
  how = (cap, temperature)
  logps = _token_logps(kernel_is_frozen, chunks, how, hidden, kernel, targets)
  return logps[:, :count]


def _split(x, chunks):
  """[R, chunks * m, ...] -> [chunks, R, m, ...], rows stay where they are."""
  return jnp.moveaxis(x.reshape(x.shape[0], chunks, -1, *x.shape[2:]), 1, 0)


def _join(x):
  return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])


def logits(hidden: Array, kernel: Array, cap: float = 0.0) -> Array:
  """hidden [R, M, D] @ kernel [D, V] -> float32 [R, M, V], soft-capped."""
  raw = jnp.einsum(
    "rmd,dv->rmv", hidden, kernel, preferred_element_type=jnp.float32
  )
  return soft_cap(raw, cap)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _token_logps(frozen, chunks, how, hidden, kernel, targets):
  return _forward(frozen, chunks, how, hidden, kernel, targets)[0]


def _scaled(hidden, kernel, how):
  cap, temperature = how
  found = logits(hidden, kernel, cap)
  return found if temperature == 1 else found / temperature


def _forward(frozen, chunks, how, hidden, kernel, targets):
  def chunk(_, xs):
    h, t = xs
    found = _scaled(h, kernel, how)
    normalizer = jax.nn.logsumexp(found, axis=-1)
    chosen = jnp.take_along_axis(found, t[..., None], axis=-1)[..., 0]
    return None, (chosen - normalizer, normalizer)

  _, (logps, normalizer) = lax.scan(
    chunk, None, (_split(hidden, chunks), _split(targets, chunks))
  )
  return _join(logps), (hidden, kernel, targets, normalizer)


def _backward(frozen, chunks, how, saved, cotangent):
  hidden, kernel, targets, normalizer = saved
  cap, temperature = how

  def chunk(d_kernel, xs):
    h, t, norm, g = xs
    found = _scaled(h, kernel, how)
    p = jnp.exp(found - norm[..., None])
    hit = lax.broadcasted_iota(jnp.int32, p.shape, 2) == t[..., None]
    d_logits = (hit - p) * g[..., None]
    if cap:  # the slope of cap * tanh(x / cap)
      d_logits = d_logits * (1 - (found * temperature / cap) ** 2)
    if temperature != 1:
      d_logits = d_logits / temperature
    d_logits = d_logits.astype(h.dtype)
    d_h = jnp.einsum("rmv,dv->rmd", d_logits, kernel)
    if not frozen:
      d_kernel = d_kernel + jnp.einsum(
        "rmd,rmv->dv", h, d_logits, preferred_element_type=jnp.float32
      )
    return d_kernel, d_h

  d_kernel, d_hidden = lax.scan(
    chunk,
    jnp.zeros((0,) if frozen else kernel.shape, jnp.float32),
    (
      _split(hidden, chunks),
      _split(targets, chunks),
      normalizer,
      _split(cotangent, chunks),
    ),
  )
  if frozen:
    d_kernel = jnp.zeros(kernel.shape, kernel.dtype)
  return _join(d_hidden), d_kernel.astype(kernel.dtype), None


_token_logps.defvjp(_forward, _backward)


def init_reward_head(key: Array, width: int) -> PyTree:
  """normal(0, 1/sqrt(D + 1)), zero bias (methods.md 1.1)."""
  kernel = jax.random.normal(key, (width,), jnp.float32) / math.sqrt(width + 1)
  return {"kernel": kernel, "bias": jnp.zeros((), jnp.float32)}


def reward(head: PyTree, hidden: Array) -> Array:
  """hidden [..., D] -> float32 [...]."""
  kernel = head["kernel"].astype(jnp.float32)
  return hidden.astype(jnp.float32) @ kernel + head["bias"]
