"""Sampling: a prompt is prefilled once, its K branches share that cache.

A decode step is a row of K new tokens, one a branch, so the sampler runs the
trainer's own branch attention and its log-probs are the trainer's.

Letters: B prompts, P prompt slots, K branches, S new tokens, V vocabulary.
"""

import functools
from typing import NamedTuple

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from xpo_jax.models import model as lm
from xpo_jax.models.model import Model, Weights
from xpo_jax.models.transformer import Places
from xpo_jax.types import Array, Samples

BUCKET = 256  # width of the inner step of the two-level inverse CDF


@struct.dataclass
class Sampling:
  """How to draw; temperature 0 is greedy."""

  completions: int = struct.field(pytree_node=False, default=1)  # K
  max_new_tokens: int = struct.field(pytree_node=False, default=64)  # S
  temperature: float = struct.field(pytree_node=False, default=1.0)
  top_p: float = struct.field(pytree_node=False, default=1.0)
  eos_id: int = struct.field(pytree_node=False, default=0)


class _Carry(NamedTuple):
  step: Array
  logits: Array  # [B, K, V] for the next token
  caches: tuple
  tokens: Array  # [B, K, S]
  logps: Array  # [B, K, S]
  done: Array  # [B, K]
  length: Array  # [B, K]


@functools.partial(jax.jit, static_argnums=(0, 5))
def generate(
  model: Model,
  weights: Weights,
  prompts: Array,
  lengths: Array,
  key: Array,
  how: Sampling,
  rows: Array | None = None,
) -> Samples:
  """Draws K completions of every prompt.

  Args:
    model: sizes.
    weights: of the policy.
    prompts: int32 [B, P], padded on the right with anything.
    lengths: int32 [B], 1..P.
    key: noise key; the noise of a token depends on (key, rows[b], k, step)
      only, never on the batch's layout.
    how: static settings.
    rows: int32 [B] global prompt numbers; 0..B-1 if None.

  Returns:
    Samples; log-probs are those of the distribution drawn from (temperature
    and top-p applied, renormalised; greedy: temperature 1).
  """
  count, width = prompts.shape
  branches, new = how.completions, how.max_new_tokens
  rows = jnp.arange(count) if rows is None else rows
  keys = jax.vmap(
    lambda r: jax.vmap(lambda k: jax.random.fold_in(k_of(key, r), k))(
      jnp.arange(branches)
    )
  )(rows)
  slots = _slots(lengths, width, branches, new)
  caches = lm.init_caches(model, count, width + branches * new)
  prompt_places = jax.tree.map(lambda x: x[:, :width], slots)
  states, caches = lm.extend(
    model, weights, prompts, prompt_places, caches, slots, 0
  )
  last = jnp.take_along_axis(states, (lengths - 1)[:, None, None], axis=1)
  logits = lm.logits(model, weights, last)
  start = _Carry(
    step=jnp.zeros((), jnp.int32),
    logits=jnp.broadcast_to(logits, (count, branches, logits.shape[-1])),
    caches=caches,
    tokens=jnp.full((count, branches, new), how.eos_id, jnp.int32),
    logps=jnp.zeros((count, branches, new), jnp.float32),
    done=jnp.zeros((count, branches), bool),
    length=jnp.zeros((count, branches), jnp.int32),
  )
  body = functools.partial(_decode, model, weights, how, keys, slots, width)
  end = lax.while_loop(lambda c: (c.step < new) & ~jnp.all(c.done), body, start)
  mask = jnp.arange(new)[None, None] < end.length[..., None]
  return Samples(
    tokens=jnp.where(mask, end.tokens, how.eos_id),
    mask=mask,
    sampler_logps=jnp.where(mask, end.logps, 0.0),
    ended=end.done,
  )


def k_of(key: Array, row: Array) -> Array:
  """The noise key of one prompt."""
  return jax.random.fold_in(key, row)


def _slots(lengths, width, branches, new) -> Places:
  """Places of all cache slots: P of the prompt, then S steps of K branches.

  A slot not written yet lies later than every query, so causality hides it.
  """
  at = jnp.arange(width)
  inside = at[None] < lengths[:, None]
  step = jnp.repeat(jnp.arange(new), branches)
  branch = jnp.tile(jnp.arange(1, branches + 1), new)
  spread = lambda x: jnp.broadcast_to(x, (lengths.shape[0], x.shape[0]))
  join = lambda a, b: jnp.concatenate([a, b], axis=1).astype(jnp.int32)
  return Places(
    positions=join(spread(at), lengths[:, None] + step[None]),
    group=join(inside, jnp.ones_like(spread(step))),
    branch=join(jnp.zeros_like(spread(at)), spread(branch)),
  )


def _decode(model, weights, how, keys, slots, width, c: _Carry) -> _Carry:
  draw_keys = jax.vmap(jax.vmap(lambda k: jax.random.fold_in(k, c.step)))(keys)
  uniform = jax.vmap(jax.vmap(jax.random.uniform))(draw_keys)
  token, logp = choose(c.logits, uniform, how.temperature, how.top_p)
  token = jnp.where(c.done, how.eos_id, token)
  place = lambda x, v: lax.dynamic_update_slice_in_dim(
    x, v[..., None].astype(x.dtype), c.step, axis=2
  )
  slot = width + c.step * how.completions
  here = jax.tree.map(
    lambda x: lax.dynamic_slice_in_dim(x, slot, how.completions, axis=1), slots
  )
  states, caches = lm.extend(model, weights, token, here, c.caches, slots, slot)
  return _Carry(
    step=c.step + 1,
    logits=lm.logits(model, weights, states),
    caches=caches,
    tokens=place(c.tokens, token),
    logps=place(c.logps, logp),
    done=c.done | (token == how.eos_id),
    length=c.length + ~c.done,
  )


def choose(
  logits: Array, uniform: Array, temperature: float, top_p: float
) -> tuple[Array, Array]:
  """logits [..., V], uniform [...] in [0, 1) -> token and its log-prob [...].

  Greedy for temperature 0 (ties: lowest id), else the inverse CDF.
  """
  if temperature == 0:
    token = jnp.argmax(logits, axis=-1)
  else:
    logits = filter_top_p(logits / temperature, top_p)
    token = _inverse_cdf(jax.nn.softmax(logits, axis=-1), uniform)
  chosen = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
  return token, chosen - jax.nn.logsumexp(logits, axis=-1)


def filter_top_p(logits: Array, top_p: float) -> Array:
  """Keeps the smallest sorted prefix of mass >= top_p; the rest is -inf.

  The token that crosses top_p is kept; ties go to the lower id.
  """
  if top_p >= 1.0:
    return logits
  order = jnp.argsort(-logits, axis=-1, stable=True)
  p = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
  keep = jnp.cumsum(p, axis=-1) - p < top_p
  back = jnp.argsort(order, axis=-1)
  keep = jnp.take_along_axis(keep, back, axis=-1)
  return jnp.where(keep, logits, -jnp.inf)


def _inverse_cdf(p: Array, uniform: Array) -> Array:
  """Two levels: first the bucket, then the token inside it.

  One uniform a token and sums of at most a few hundred numbers: cheaper than V
  Gumbels, and float32 rounding stays inside a bucket.
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
