"""Refilled slots draw the sampler's tokens, in as few steps as a simulation."""

import dataclasses
import math
import re

import jax
import numpy as np
import pytest

from tests import tiny_models as tiny
from tests.rollout import sampler_test as base
from xpo_jax.errors import XpoError
from xpo_jax.models.model import Model
from xpo_jax.rollout import refill, sampler, stops
from xpo_jax.rollout.refill import Layout

K = 3


def simulated(lengths, slots, chunk, held):
  """Steps of one lane, counted job by job."""
  left, place, holds = [0] * slots, [None] * slots, [None] * held
  job, steps = 0, 0
  while job < len(lengths) or any(left):
    for z in range(slots):
      if left[z] or job == len(lengths):
        continue
      prompt = job // K
      if job % K == 0:
        read = {place[y] for y in range(slots) if left[y]}
        free = [n for n in range(held) if n not in read]
        if not free:
          break
        holds[free[0]] = prompt
      place[z] = holds.index(prompt)
      left[z] = lengths[job]
      job += 1
    done, freed = 0, 0
    while any(left) and not (job < len(lengths) and (done == chunk or freed)):
      freed += sum(n == 1 for n in left)
      left = [max(n - 1, 0) for n in left]
      done, steps = done + 1, steps + 1
  return steps


def assert_same(found, steps, wanted, layout):
  np.testing.assert_array_equal(found.tokens, wanted.tokens)
  np.testing.assert_array_equal(found.mask, wanted.mask)
  np.testing.assert_array_equal(found.ended, wanted.ended)
  np.testing.assert_allclose(
    found.sampler_logps, wanted.sampler_logps, atol=2e-5
  )
  lengths = np.asarray(wanted.mask).sum(-1).reshape(-1).tolist()
  held = layout.held or min(layout.slots, 3 * -(-layout.slots // K))
  assert steps == simulated(lengths, layout.slots, layout.chunk, held)


def test_tokens_are_the_samplers_and_steps_the_simulations():
  """Four slots but two prompts held: slots wait for a place in the cache."""
  whole, rows = base.make_whole(), np.array([2, 0, 1])
  limits = np.array([[1, 7, 7], [2, 6, 5], [7, 1, 0]])
  how = base.HOW
  wanted = base.generate(whole, how, rows=rows, limits=limits)
  tokens, lengths = base.padded(base.PROMPTS)
  layout = Layout(slots=4, chunk=3, held=2)
  found, steps = refill.generate(
    base.MODEL,
    tiny.weights(base.MODEL, whole),
    tokens,
    lengths,
    base.KEY,
    how,
    layout,
    rows,
    limits,
    base.NEVER,
  )
  assert_same(found, steps, wanted, layout)


# Windows shorter than prompt and completion; the ring wraps around often.
CONFIG = dataclasses.replace(
  tiny.TIED, layers=1, window=4, windowed=(True,), attention_cap=3.0
)
COUNT, S = 10, 12


@pytest.fixture(scope="module")
def asked():
  """Arguments before and after the layout, and the sampler's answer."""
  model, noise = Model(CONFIG), np.random.default_rng(0)
  weights = tiny.weights(model, tiny.params(CONFIG))
  prompts = noise.integers(0, CONFIG.vocab_size, (COUNT, 6)).astype(np.int32)
  lengths = noise.integers(1, 7, COUNT).astype(np.int32)
  limits = noise.integers(0, S + 1, (COUNT, K)).astype(np.int32)
  rows = np.arange(COUNT)[::-1].astype(np.int32)
  table = stops.stop_table(base.LETTERS, ["\x05", "\x02\x03"])
  how = sampler.Sampling(completions=K, max_new_tokens=S, eos_id=base.EOS)
  first = (model, weights, prompts, lengths, base.KEY, how)
  more = (rows, limits, table)
  return first, more, jax.tree.map(np.asarray, sampler.generate(*first, *more))


@pytest.mark.slow
@pytest.mark.parametrize(
  "layout",
  [
    Layout(slots=4, chunk=5),
    Layout(slots=5, chunk=3, held=2),
    Layout(slots=40),
    Layout(slots=1, held=1),
  ],
  ids=str,
)
def test_a_long_queue(asked, layout):
  first, more, wanted = asked
  assert wanted.ended.any() and not wanted.ended.all()
  found, steps = refill.generate(*first, layout, *more)
  assert_same(found, steps, wanted, layout)


@pytest.mark.slow
def test_lanes_have_queues_of_their_own(asked):
  first, more, wanted = asked
  found, steps = refill.generate(*first, Layout(slots=5, lanes=2), *more)
  np.testing.assert_array_equal(found.tokens, wanted.tokens)
  lengths = wanted.mask.sum(-1).reshape(2, -1)
  assert steps >= -(-lengths.sum(1).max() // 5)


@pytest.mark.slow
def test_no_step_copies_a_cache(asked):
  """A ring of keys is copied at the start, never in a loop."""
  first, more, _ = asked
  config = dataclasses.replace(CONFIG, head_dim=14, layers=2, windowed=())
  model = Model(config)
  weights = tiny.weights(model, tiny.params(config))
  inputs = (model, weights, *first[2:], Layout(slots=5, held=4), *more)
  text = refill.generate.lower(*inputs).compile().as_text()
  ring = 5 * 2 * S * 14
  copies, where = [], ""
  for line in text.splitlines():
    if line and not line.startswith(" "):
      where = line
    found = re.search(r"= f32\[([\d,]+)\]\S* copy\(", line)
    if found and math.prod(map(int, found[1].split(","))) == ring:
      copies.append(where)
  assert copies and all("ENTRY" in where for where in copies)


def test_lanes_must_share_the_prompts_evenly():
  tokens, lengths = base.padded(base.PROMPTS)
  weights = tiny.weights(base.MODEL, tiny.params(base.CONFIG))
  with pytest.raises(XpoError, match="3 prompts do not fill 2 lanes"):
    refill.generate(
      base.MODEL,
      weights,
      tokens,
      lengths,
      base.KEY,
      base.HOW,
      Layout(lanes=2),
    )
