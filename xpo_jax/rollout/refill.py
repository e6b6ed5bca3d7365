"""Sampling a long queue: a slot that has finished takes the next completion.

Completions end at very different lengths. Here a fixed number of slots decodes;
every few steps the finished ones are given the queue's next completions, and a
prompt is prefilled when its first completion starts. All of it is one program.

On a mesh the prompts are dealt to lanes, each with slots and a queue of its
own, so that nothing but the question "is all done?" crosses devices.

Letters: Q prompts, K completions each, A lanes, Z slots and N prompts held a
lane, P prompt slots, S new tokens.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from xpo_jax.errors import usage_error
from xpo_jax.models import decode
from xpo_jax.models.model import Model, Weights
from xpo_jax.rollout import mixture, sampler, steps
from xpo_jax.rollout.mixture import Mixture
from xpo_jax.rollout.steps import Policy, Sampling, Slots, State
from xpo_jax.types import Array, Samples


@dataclasses.dataclass(frozen=True)
class Layout:
  """Sizes of the machine; none of them changes a token."""

  slots: int = 64  # Z, decoded at once in a lane
  lanes: int = 1  # A, a multiple of the devices that rows are sharded over
  chunk: int = 16  # decode steps after which finished slots are refilled
  held: int = 0  # N, prompts in the cache of a lane; 0: 3 Z / K

  def prompts(self, completions: int) -> int:
    """N: enough that a few long completions do not hold up the queue."""
    usual = min(self.slots, 3 * -(-self.slots // completions))
    return self.held or usual


class _Queue(NamedTuple):
  """What is asked for; constant. A lane has Q / A prompts in order."""

  tokens: Array  # [A, Q / A, P]
  lengths: Array  # [A, Q / A]
  limits: Array  # [A, J] by job, J = K Q / A


class _Machine(NamedTuple):
  state: State
  next: Array  # int32 [A] the first job not yet given to a slot
  holds: Array  # int32 [A, N] the prompt at each place of the cache, or -1
  place: Array  # int32 [A, Z] where each slot's prompt is


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def generate(
  model: Model,
  weights: Weights | Mixture,
  prompts: Array,
  lengths: Array,
  key: Array,
  how: Sampling,
  layout: Layout,
  rows: Array | None = None,
  limits: Array | None = None,
  stops: Array | None = None,
) -> tuple[Samples, Array]:
  """The tokens of `sampler.generate`, in fewer steps.

  Args:
    model: sizes.
    weights: of the policy, or a mixture of two policies.
    prompts: int32 [Q, P], padded on the right with anything; Q a multiple of
      the lanes.
    lengths: int32 [Q], 1..P.
    key: noise key.
    how: static settings.
    layout: static sizes.
    rows: int32 [Q] global prompt numbers; 0..Q-1 if None.
    limits: int32 [Q] or [Q, K], tokens to draw at most.
    stops: int32 [n, V] of `stops.stop_table`.

  Returns:
    Samples [Q, K, ...], and how many steps all slots made: the share of useful
    slot-steps is sum(mask) / (steps * lanes * slots).

  Raises:
    XpoError: sizes that do not fit together.
  """
  queue = _queue(prompts, lengths, how, layout, limits)
  uniforms = sampler.draws(key, prompts.shape[0], how, rows)
  uniforms = uniforms.reshape(layout.lanes, -1, how.max_new_tokens)
  policy = steps.make_policy(model, weights, uniforms, stops)
  machine = _empty(model, weights, queue, how, layout)
  jobs = queue.limits.shape[1]
  end = lax.while_loop(
    lambda m: jnp.any(m.next < jobs) | ~jnp.all(m.state.slots.done),
    lambda m: _chunk(
      model, policy, how, layout, queue, _refill(model, policy, how, queue, m)
    ),
    machine,
  )
  found = jax.tree.map(
    lambda x: x.reshape(-1, how.completions, *x.shape[2:]), end.state.found
  )
  return found, end.state.tick


def _queue(prompts, lengths, how, layout, limits) -> _Queue:
  count, width = prompts.shape
  if count % layout.lanes:
    raise usage_error(
      f"{count} prompts do not fill {layout.lanes} lanes evenly; pad them"
    )
  lane = lambda x: x.reshape(layout.lanes, -1, *x.shape[1:]).astype(jnp.int32)
  return _Queue(
    tokens=lane(prompts),
    lengths=lane(lengths),
    limits=lane(sampler.full_limits(limits, count, how).reshape(-1)),
  )


def _empty(model, weights, queue, how, layout) -> _Machine:
  """All slots idle, nothing in the cache."""
  lanes, _, width = queue.tokens.shape
  held = layout.prompts(how.completions)
  zero = jnp.zeros((lanes, layout.slots), jnp.int32)
  idle = Slots(*[zero] * len(Slots._fields))._replace(
    length=zero + 1, done=zero == 0
  )
  caches = [
    decode.empty_caches(
      model, lanes, held, width, layout.slots, how.max_new_tokens
    )
    for _ in mixture.parts(weights)
  ]
  found = steps.nothing_found(lanes, queue.limits.shape[1], how)
  return _Machine(
    state=State(jnp.zeros((), jnp.int32), idle, tuple(caches), found),
    next=jnp.zeros(lanes, jnp.int32),
    holds=jnp.full((lanes, held), -1, jnp.int32),
    place=zero,
  )


class _Orders(NamedTuple):
  """Who starts what, of one lane."""

  job: Array  # int32 [Z]
  place: Array  # int32 [Z]
  starts: Array  # bool [Z]
  first: Array  # int32 [] the first prompt to prefill
  count: Array  # int32 [] how many
  free: Array  # int32 [N] places, the free ones first


def _assign(
  jobs: int,
  branches: int,
  done: Array,
  next_job: Array,
  holds: Array,
  place: Array,
) -> _Orders:
  """Gives one lane's next jobs to its free slots, in order.

  A job whose prompt is not in the cache needs a free place there; a place is
  free when no live slot reads it and all jobs of its prompt have started.
  """
  places = jnp.arange(holds.shape[0])
  reads = ~done[:, None] & (place[:, None] == places[None])
  first = -(-next_job // branches)  # prompts before it are in the cache
  begun = (holds == next_job // branches) & (next_job % branches > 0)
  free = ~(jnp.any(reads, axis=0) | begun)
  order = jnp.argsort(~free, stable=True)
  job = next_job + jnp.cumsum(done) - 1
  new = job // branches - first  # -1: the prompt that has begun
  starts = done & (job < jobs) & (new < jnp.sum(free))
  place = jnp.where(new < 0, jnp.argmax(begun), order[jnp.maximum(new, 0)])
  count = jnp.max(jnp.where(starts, new + 1, 0), initial=0)
  return _Orders(job, place, starts, first, count, order)


def _refill(model, policy, how, queue, machine) -> _Machine:
  """Starts jobs in free slots and prefills their prompts."""
  jobs, branches = queue.limits.shape[1], how.completions
  assign = functools.partial(_assign, jobs, branches)
  orders = jax.vmap(assign)(
    machine.state.slots.done, machine.next, machine.holds, machine.place
  )
  slots = _started(machine.state.slots, orders, queue, branches)
  _, holds, caches = lax.while_loop(
    lambda s: jnp.any(s[0] < orders.count),
    lambda s: _prefill_one(model, policy, queue, orders, *s),
    (jnp.zeros((), jnp.int32), machine.holds, machine.state.caches),
  )
  return _Machine(
    state=machine.state._replace(slots=slots, caches=caches),
    next=machine.next + jnp.sum(orders.starts, axis=1),
    holds=holds,
    place=jnp.where(orders.starts, orders.place, machine.place),
  )


def _started(slots: Slots, orders: _Orders, queue, branches) -> Slots:
  """The slots with new jobs, the others as they are."""
  job = jnp.minimum(orders.job, queue.limits.shape[1] - 1)
  prompt = job // branches
  take = lambda x, at: jnp.take_along_axis(x, at, axis=1)
  length = take(queue.lengths, prompt)
  last = jnp.take_along_axis(queue.tokens, (queue.lengths - 1)[..., None], 2)
  limit = take(queue.limits, job)
  zero = jnp.zeros_like(job)
  new = Slots(
    token=take(last[..., 0], prompt),
    length=length,
    step=zero,
    limit=limit,
    done=limit <= 0,
    stop=zero,
    job=job,
  )
  return Slots(*(jnp.where(orders.starts, a, b) for a, b in zip(new, slots)))


def _prefill_one(model, policy, queue, orders, turn, holds, caches):
  """Every lane's next new prompt; a lane that needs none keeps its cache."""
  needs = turn < orders.count  # [A]
  last = queue.tokens.shape[1] - 1
  prompt = jnp.minimum(orders.first + turn, last)
  pick = jax.vmap(lambda x, i: x[i])
  place = pick(orders.free, jnp.full_like(prompt, turn))
  tokens, lengths = pick(queue.tokens, prompt), pick(queue.lengths, prompt)
  # Out of range is dropped.
  target = jnp.where(needs, place, holds.shape[1])
  put = jax.vmap(lambda old, new, at: old.at[at].set(new, mode="drop"))
  done = []
  for decoder, old in zip(policy.decoders, caches, strict=True):
    keys = decode.prefill(model, decoder, tokens, lengths)
    done.append(
      [
        c.replace(
          shared_key=put(c.shared_key, k, target),
          shared_value=put(c.shared_value, v, target),
        )
        for c, (k, v) in zip(old, keys, strict=True)
      ]
    )
  return turn + 1, put(holds, prompt, target), tuple(done)


def _chunk(model, policy: Policy, how, layout, queue, machine) -> _Machine:
  """Decodes until a refill is worth it.

  That is after `chunk` steps, or once a sixteenth of the slots has finished.
  """
  branches = how.completions
  jobs = queue.limits.shape[1]
  start = machine.state.tick
  seats, grid = _seating(machine, branches)
  held = jnp.maximum(machine.holds, 0)
  shared = jnp.take_along_axis(queue.lengths, held, axis=1) - 1
  many = max(1, layout.slots // 16)
  idle = lambda state: jnp.sum(state.slots.done, axis=1)
  before = idle(machine.state)

  def go_on(state):
    waits = machine.next < jobs
    enough = waits & (idle(state) - before >= many)
    stop = jnp.any(waits) & (state.tick - start >= layout.chunk)
    return ~jnp.all(state.slots.done) & ~stop & ~jnp.any(enough)

  step = lambda s: steps.run(model, policy, how, shared, s, seats, grid)
  return machine._replace(state=lax.while_loop(go_on, step, machine.state))


def _seating(machine: _Machine, branches: int) -> tuple[Array, Array]:
  """Where slots sit by prompt and branch, and who sits on each seat."""
  slots = machine.state.slots
  lanes, count = slots.done.shape
  seats = machine.place * branches + slots.job % branches
  # A finished slot may share a seat with a live one: it must not win.
  target = jnp.where(slots.done, machine.holds.shape[1] * branches, seats)
  empty = jnp.zeros((lanes, machine.holds.shape[1] * branches), jnp.int32)
  sit = jax.vmap(lambda x, at, who: x.at[at].set(who, mode="drop"))
  who = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), (lanes, count))
  return seats, sit(empty, target, who)
