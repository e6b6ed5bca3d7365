"""Sampling: a prompt is prefilled once, its K branches share that cache.

Letters: B prompts, P prompt slots, K branches, S new tokens, V vocabulary.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from xpo_jax.models import decode
from xpo_jax.models.model import Model, Weights
from xpo_jax.rollout import noise, steps
from xpo_jax.rollout.mixture import Mixture
from xpo_jax.rollout.steps import Sampling, Slots, State
from xpo_jax.types import Array, Samples

__all__ = ["Sampling", "generate"]


@functools.partial(jax.jit, static_argnums=(0, 5))
def generate(
  model: Model,
  weights: Weights | Mixture,
  prompts: Array,
  lengths: Array,
  key: Array,
  how: Sampling,
  rows: Array | None = None,
  limits: Array | None = None,
  stops: Array | None = None,
) -> Samples:
  """Draws K completions of every prompt; ends when all of them have.

  Args:
    model: sizes.
    weights: of the policy, or a mixture of two policies.
    prompts: int32 [B, P], padded on the right with anything.
    lengths: int32 [B], 1..P.
    key: noise key; the noise of a token depends on (key, rows[b], k, step)
      only, never on the batch's layout.
    how: static settings.
    rows: int32 [B] global prompt numbers; 0..B-1 if None.
    limits: int32 [B] or [B, K], tokens to draw at most, <= how.max_new_tokens;
      all of them if None.
    stops: int32 [n, V] of `stops.stop_table`: a completion that has one of its
      texts is ended, the token that completes it included.

  Returns:
    Samples; log-probs are those of the distribution drawn from (temperature,
    top-k and top-p applied, renormalised; greedy: temperature 1).
  """
  count, width = prompts.shape
  policy = steps.make_policy(
    model, weights, draws(key, count, how, rows), stops
  )
  caches = []
  for decoder in policy.decoders:
    keys = decode.prefill(model, decoder, prompts, lengths)
    empty = decode.empty_caches(
      model, count, 0, width, how.completions, how.max_new_tokens
    )
    caches.append(
      [
        c.replace(shared_key=k[:, None], shared_value=v[:, None])
        for c, (k, v) in zip(empty, keys, strict=True)
      ]
    )
  state = State(
    tick=jnp.zeros((), jnp.int32),
    slots=start(prompts, lengths, how, limits),
    caches=tuple(caches),
    found=steps.nothing_found(count, how.completions, how),
  )
  # A prompt's last token is the first that its branches are fed.
  shared = lengths[:, None] - 1
  return lax.while_loop(
    lambda s: ~jnp.all(s.slots.done),
    lambda s: steps.run(model, policy, how, shared, s),
    state,
  ).found


def start(
  prompts: Array,
  lengths: Array,
  how: Sampling,
  limits: Array | None,
) -> Slots:
  """K slots a prompt, all before their first token."""
  count, branches = prompts.shape[0], how.completions
  limits = full_limits(limits, count, how)
  last = jnp.take_along_axis(prompts, lengths[:, None] - 1, axis=1)
  spread = lambda x: jnp.broadcast_to(x, (count, branches)).astype(jnp.int32)
  return Slots(
    token=spread(last),
    length=spread(lengths[:, None]),
    step=spread(0),
    limit=limits,
    done=limits <= 0,
    stop=spread(0),
    job=spread(jnp.arange(branches)[None]),
  )


def draws(key: Array, count: int, how: Sampling, rows: Array | None) -> Array:
  """The noise [B, K, S] of every token of B prompts, numbered `rows`."""
  rows = jnp.arange(count) if rows is None else rows
  branches = jnp.arange(how.completions)[None]
  rows, branches = jnp.broadcast_arrays(rows[:, None], branches)
  return noise.uniforms(key, rows, branches, how.max_new_tokens)


def full_limits(limits: Array | None, count: int, how: Sampling) -> Array:
  """int32 [B, K] tokens to draw at most."""
  shape, most = (count, how.completions), how.max_new_tokens
  if limits is None:
    return jnp.full(shape, most, jnp.int32)
  limits = jnp.asarray(limits, jnp.int32)
  limits = limits if limits.ndim == 2 else limits[:, None]
  return jnp.minimum(jnp.broadcast_to(limits, shape), most)
