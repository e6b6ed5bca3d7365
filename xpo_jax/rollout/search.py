"""Beam search for the likeliest completions, and what a token is credited.

A policy trained by DPO is optimal for the rewards r(s, a) with
beta log(policy / reference)(a | s) = r(s, a) + V(s') - V(s): so its likeliest
completion maximises reward so far + V of the frontier + beta log reference.
Source: "From r to Q*", arXiv 2404.12358; methods.md 5.1.

Letters: B prompts, W beams, S new tokens, V vocabulary.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.models import decode
from xpo_jax.models.model import Model, Weights
from xpo_jax.models.slots import SlotPlaces
from xpo_jax.types import Array, Samples


@dataclasses.dataclass(frozen=True)
class Beams:
  """How to search."""

  width: int = 4  # W; 1 is greedy decoding
  max_new_tokens: int = 64  # S
  eos_id: int = 0
  length_penalty: float = 0.0  # beams are ranked by log-prob / length ** this


class _Carry(NamedTuple):
  tick: Array
  caches: list
  found: Samples  # [B, W, S]
  length: Array  # int32 [B, W]
  total: Array  # [B, W] log-prob, -inf for a beam that is not there


@functools.partial(jax.jit, static_argnums=(0, 4))
def beam_search(
  model: Model, weights: Weights, prompts: Array, lengths: Array, how: Beams
) -> tuple[Samples, Array]:
  """The W likeliest completions that the beam finds, the best first.

  A completion that has ended competes with those that go on.

  Args:
    model: sizes.
    weights: of the policy.
    prompts: int32 [B, P], padded on the right with anything.
    lengths: int32 [B], 1..P.
    how: static settings.

  Returns:
    Samples [B, W, S] (log-probs at temperature 1) and scores [B, W], by which
    they are ranked; -inf where fewer than W completions exist.
  """
  count, width = prompts.shape
  decoder = decode.prepare(model, weights)
  shape = (count, how.width)
  full = lambda value, dtype, *more: jnp.full((*shape, *more), value, dtype)
  caches = [
    c.replace(shared_key=k[:, None], shared_value=v[:, None])
    for c, (k, v) in zip(
      decode.empty_caches(
        model, count, 0, width, how.width, how.max_new_tokens
      ),
      decode.prefill(model, decoder, prompts, lengths),
      strict=True,
    )
  ]
  new = how.max_new_tokens
  start = _Carry(
    tick=jnp.zeros((), jnp.int32),
    caches=caches,
    found=Samples(
      tokens=full(how.eos_id, jnp.int32, new),
      mask=full(False, bool, new),
      sampler_logps=full(0.0, jnp.float32, new),
      ended=full(False, bool),
    ),
    length=full(0, jnp.int32),
    # All beams start alike: only the first may branch.
    total=full(-jnp.inf, jnp.float32).at[:, 0].set(0.0),
  )
  last = jnp.take_along_axis(prompts, lengths[:, None] - 1, axis=1)
  end = lax.while_loop(
    lambda c: (c.tick < new) & ~jnp.all(c.found.ended | jnp.isinf(c.total)),
    lambda c: _extend(model, decoder, how, lengths, last, c),
    start,
  )
  return end.found, _rank(how, end.total, end.length)


def _rank(how, total, length):
  return total / jnp.maximum(length, 1) ** how.length_penalty


def _extend(model, decoder, how, lengths, last, c: _Carry) -> _Carry:
  """One token more for the beams that go on; the best W of all stay."""
  newest = jnp.take(c.found.tokens, jnp.maximum(c.tick - 1, 0), axis=2)
  fed = jnp.where(c.tick == 0, last, newest)
  steps = jnp.broadcast_to(c.tick, fed.shape)
  places = SlotPlaces(
    positions=lengths[:, None] - 1 + steps,
    steps=steps,
    tick=c.tick,
    shared=lengths[:, None] - 1,
  )
  logits, caches = decode.step(model, decoder, fed, places, c.caches)
  logps = jax.nn.log_softmax(logits, axis=-1)
  size = logps.shape[-1]
  over = c.found.ended[..., None]
  # An ended beam is one candidate: itself.
  itself = jnp.where(jnp.arange(size) == how.eos_id, 0.0, -jnp.inf)
  total = c.total[..., None] + jnp.where(over, itself[None, None], logps)
  length = c.length[..., None] + ~over
  flat = lambda x: x.reshape(x.shape[0], -1)
  _, pick = lax.top_k(flat(_rank(how, total, length)), how.width)
  parent, token = jnp.divmod(pick, size)
  inherit = lambda x: jnp.take_along_axis(
    x, parent.reshape(*parent.shape, *[1] * (x.ndim - 2)), axis=1
  )
  follow = lambda x: inherit(x.reshape(*fed.shape, *x.shape[1:])).reshape(
    x.shape
  )
  choose = lambda x: jnp.take_along_axis(flat(x), pick, axis=1)
  found = jax.tree.map(inherit, c.found)
  live = ~found.ended & jnp.isfinite(choose(total))
  put = lambda old, new, blank: lax.dynamic_update_slice_in_dim(
    old, jnp.where(live, new, blank)[..., None].astype(old.dtype), c.tick, 2
  )
  return _Carry(
    tick=c.tick + 1,
    caches=[
      cache.replace(key=follow(cache.key), value=follow(cache.value))
      for cache in caches
    ],
    found=Samples(
      tokens=put(found.tokens, token, how.eos_id),
      mask=put(found.mask, True, False),
      sampler_logps=put(found.sampler_logps, choose(logps), 0.0),
      ended=found.ended | (live & (token == how.eos_id)),
    ),
    length=inherit(c.length) + live,
    total=choose(total),
  )


def token_credit(
  policy_logps: Array, reference_logps: Array, mask: Array, beta: float
) -> tuple[Array, Array]:
  """What a policy trained by DPO credits every token with.

  Args:
    policy_logps: [B, K, T] nats.
    reference_logps: [B, K, T].
    mask: bool [B, K, T].
    beta: of DPO.

  Returns:
    credit [B, K, T] = beta (policy - reference) = r(s, a) + V(s') - V(s), whose
    sum is the sequence's reward less V(prompt); and to_go [B, K, T], its sum
    over each token and all later ones = reward-to-go - V(s). 0 where masked.
  """
  credit = jnp.where(mask, beta * (policy_logps - reference_logps), 0.0)
  return credit, jnp.where(mask, ops.tail_sum(credit, mask), 0.0)
