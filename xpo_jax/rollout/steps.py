"""One decode step of all slots: the inside of every sampling loop.

Letters: R rows, Z slots a row, J completions a row, S new tokens, V vocabulary.
"""

from typing import NamedTuple

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp

from xpo_jax.models import decode
from xpo_jax.models.decode import Decoder
from xpo_jax.models.model import Model, Weights
from xpo_jax.models.slots import SlotPlaces
from xpo_jax.rollout import filters, mixture, stops
from xpo_jax.rollout.mixture import Mixture
from xpo_jax.types import Array, Samples


@struct.dataclass
class Sampling:
  """How to draw; temperature 0 is greedy."""

  completions: int = struct.field(pytree_node=False, default=1)  # K
  max_new_tokens: int = struct.field(pytree_node=False, default=64)  # S
  temperature: float = struct.field(pytree_node=False, default=1.0)
  top_p: float = struct.field(pytree_node=False, default=1.0)
  eos_id: int = struct.field(pytree_node=False, default=0)
  top_k: int = struct.field(pytree_node=False, default=0)  # 0: all


class Slots(NamedTuple):
  """What each slot is doing; all [R, Z]."""

  token: Array  # int32 to be fed next: the prompt's last, or the newest
  length: Array  # int32 of the prompt
  step: Array  # int32 tokens drawn
  limit: Array  # int32 tokens to draw at most
  done: Array  # bool finished, or never started
  stop: Array  # int32 state of the stop strings' automaton
  job: Array  # int32 0..J-1, where the tokens go


class State(NamedTuple):
  """A loop's carry."""

  tick: Array  # int32 [] steps done
  slots: Slots
  caches: tuple  # a part of the policy, a layer
  found: Samples  # [R, J, S] and [R, J]


class Policy(NamedTuple):
  """The policy as a step reads it; constant over the loop."""

  decoders: tuple[Decoder, ...]
  weights: Weights | Mixture
  uniforms: Array  # [R, J, S] of every token's draw
  stops: Array | None  # [n, V] of stops.stop_table


def make_policy(
  model: Model,
  weights: Weights | Mixture,
  uniforms: Array,
  table: Array | None,
) -> Policy:
  """Lays the weights out, once a rollout."""
  decoders = [decode.prepare(model, w) for w in mixture.parts(weights)]
  axes = ("rows", None, None)
  uniforms = nn.with_logical_constraint(uniforms, axes)
  return Policy(tuple(decoders), weights, uniforms, table)


def nothing_found(rows: int, jobs: int, how: Sampling) -> Samples:
  """The arrays that the steps fill: padding, EOS everywhere."""
  make = lambda shape, value, dtype: nn.with_logical_constraint(
    jnp.full(shape, value, dtype), ("rows", *[None] * (len(shape) - 1))
  )
  shape = (rows, jobs, how.max_new_tokens)
  return Samples(
    tokens=make(shape, how.eos_id, jnp.int32),
    mask=make(shape, False, bool),
    sampler_logps=make(shape, 0.0, jnp.float32),
    ended=make(shape[:2], False, bool),
  )


def run(
  model: Model,
  policy: Policy,
  how: Sampling,
  shared: Array,
  state: State,
  seats: Array | None = None,
  grid: Array | None = None,
) -> State:
  """Feeds one token a slot, draws the next and notes it.

  Args:
    model: sizes.
    policy: from `make_policy`.
    how: static settings.
    shared: int32 [R, N] tokens of the prompts that come before the slots' own.
    state: of the loop.
    seats: as in `SlotPlaces`.
    grid: as in `SlotPlaces`.
  """
  slots = jax.tree.map(_whole, state.slots)
  places = SlotPlaces(
    positions=slots.length - 1 + slots.step,
    steps=slots.step,
    tick=state.tick,
    shared=shared,
    seats=seats,
    grid=grid,
  )
  logits, caches = [], []
  for decoder, old in zip(policy.decoders, state.caches, strict=True):
    some, new = decode.step(model, decoder, slots.token, places, old)
    logits.append(some)
    caches.append(new)
  pick = jax.vmap(lambda x, job, step: x.at[job, step].get(mode="clip"))
  uniform = pick(policy.uniforms, slots.job, slots.step)
  token, logp = filters.choose(
    mixture.mix(logits, policy.weights),
    uniform,
    how.temperature,
    how.top_p,
    how.top_k,
  )
  token, logp = _whole(token), _whole(logp)
  stop, hit = stops.follow(policy.stops, slots.stop, token)
  ended = (token == how.eos_id) | hit
  live = ~slots.done
  step = slots.step + live
  after = slots._replace(
    token=jnp.where(live, token, 0).astype(jnp.int32),
    step=step,
    done=slots.done | ended | (step >= slots.limit),
    stop=jnp.where(live, stop, slots.stop),
  )
  found = _note(state.found, slots, token, logp, ended)
  after = jax.tree.map(_whole, after)
  return State(state.tick + 1, after, tuple(caches), found)


def _whole(x: Array) -> Array:
  """[R, Z] on every device of a row: only the draw itself is split further."""
  return nn.with_logical_constraint(x, ("rows", None))


def _note(found: Samples, slots: Slots, token, logp, ended) -> Samples:
  """Writes what live slots have drawn to their completions' places."""
  jobs = found.tokens.shape[1]
  job = jnp.where(slots.done, jobs, slots.job)  # outside: dropped
  at = jax.vmap(lambda x, j, s, v: x.at[j, s].set(v, mode="drop"))
  end = jax.vmap(lambda x, j, v: x.at[j].set(v, mode="drop"))
  return Samples(
    tokens=at(found.tokens, job, slots.step, token.astype(jnp.int32)),
    mask=at(found.mask, job, slots.step, jnp.ones_like(slots.done)),
    sampler_logps=at(found.sampler_logps, job, slots.step, logp),
    ended=end(found.ended, job, ended),
  )
