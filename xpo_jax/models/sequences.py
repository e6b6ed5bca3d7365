"""Plain sequences, one a row: no groups, no branches, padding on the right."""

import functools

import jax
import jax.numpy as jnp

from xpo_jax.models import heads
from xpo_jax.models import model as lm
from xpo_jax.models.model import Model, Weights
from xpo_jax.models.transformer import Places
from xpo_jax.types import Array, PyTree


def places(tokens: Array) -> Places:
  """A row of tokens [R, L] is one prompt."""
  at = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  return Places(at, jnp.ones_like(at), jnp.zeros_like(at))


@functools.partial(jax.jit, static_argnums=0)
def logits(model: Model, params: PyTree, tokens: Array) -> Array:
  """tokens [R, L] -> float32 [R, L, V]; params of the whole model."""
  weights = Weights({}, params)
  return lm.logits(
    model, weights, lm.hidden(model, weights, tokens, places(tokens))
  )


@functools.partial(jax.jit, static_argnums=0)
def next_logps(model: Model, params: PyTree, tokens: Array) -> Array:
  """tokens [R, L] -> float32 [R, L - 1]: log-prob of each but the first."""
  weights = Weights({}, params)
  states = lm.hidden(model, weights, tokens, places(tokens))
  kernel = lm.head_kernel(model, weights)
  cap = model.config.logit_cap
  return heads.token_logps(states[:, :-1], kernel, tokens[:, 1:], cap=cap)


@functools.partial(jax.jit, static_argnums=0)
def rewards(
  model: Model, params: PyTree, head: PyTree, tokens: Array, last: Array
) -> Array:
  """Reward-head values [R] at place `last` [R] of tokens [R, L]."""
  states = lm.hidden(model, Weights({}, params), tokens, places(tokens))
  at = jnp.take_along_axis(states, last[:, None, None], axis=1)[:, 0]
  return heads.reward(head, at)
