"""Packed rows give what every prompt + completion gives alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import plain_model
from tests import tiny_models as tiny
from xpo_jax import trio
from xpo_jax.data import packing, planning
from xpo_jax.models import attention as attentions
from xpo_jax.models import model as lm
from xpo_jax.models import rope
from xpo_jax.models.model import Model, Weights
from xpo_jax.models.transformer import Places
from xpo_jax.types import Feedback

SHAPE = planning.Shape(
  prompts=6, completions=3, tokens=14, rows=4, row_length=40, targets=38
)
SIZES = (  # lengths of prompt and completions; the third is too long for a row
  (4, 7, 1, 5),
  (1, 2, 9),
  (5, 12, 14, 13),
  (6, 1, 1, 3),
  (2, 8),
  (3, 3, 2, 6),
)
LONGEST = 19
UNTIED = dataclasses.replace(tiny.CONFIG, layers=2)
TIED = dataclasses.replace(tiny.TIED, layers=2)


def make_groups(seed=0):
  noise = np.random.default_rng(seed)
  return [
    tiny.random_group(noise, f"f:{n + 1}", *sizes)
    for n, sizes in enumerate(SIZES)
  ]


def make_batch(groups):
  return packing.pack(groups, SHAPE, Feedback.SCORE)


def random_places(noise, rows=3):
  """Rows of two or three groups and padding, and the sequences in them."""
  length, fields, sequences = 24, [], []
  for r in range(rows):
    group, branch, position = np.zeros((3, length), np.int32)
    at = 0
    for number in range(1, 3 + r % 2):
      prompt = int(noise.integers(1, 3))
      before = np.arange(at, at + prompt)
      group[before], position[before] = number, np.arange(prompt)
      at += prompt
      for k in range(1, 4):
        own = np.arange(at, at + int(noise.integers(1, 3)))
        group[own], branch[own] = number, k
        position[own] = prompt + np.arange(len(own))
        at += len(own)
        sequences.append((r, np.concatenate([before, own])))
    assert at <= length
    fields.append((position, group, branch))
  return Places(*(np.stack(x) for x in zip(*fields))), sequences


def random_qkv(noise, places, heads=6, kv_heads=2, width=4):
  rows, length = places.group.shape
  draw = lambda n: noise.standard_normal((rows, length, n, width)).astype("f")
  return draw(heads), draw(kv_heads), draw(kv_heads)


def causal(q, k, v):
  """One sequence: q [T, H, C], k and v [T, G, C], in float64."""
  out = np.zeros(q.shape)
  for t, h in np.ndindex(q.shape[:2]):
    g = h // (q.shape[1] // k.shape[1])
    score = [q[t, h] @ k[s, g] / np.sqrt(q.shape[2]) for s in range(t + 1)]
    weight = np.exp(score) / np.sum(np.exp(score))
    out[t, h] = sum(weight[s] * v[s, g] for s in range(t + 1))
  return out


def test_branch_attention_is_causal_attention_of_every_sequence():
  noise = np.random.default_rng(1)
  places, sequences = random_places(noise)
  q, k, v = random_qkv(noise, places)
  found = np.asarray(attentions.attention(q, k, v, places, places))
  for r, own in sequences:
    wanted = causal(*(x[r, own].astype(float) for x in (q, k, v)))
    np.testing.assert_allclose(found[r, own], wanted, atol=2e-6)
  assert (found[places.group == 0] == 0).all()
  assert (places.group == 0).any()


@pytest.mark.parametrize("chunk", [8, 5])  # 24 queries: 8 divides, 5 not
def test_query_chunks_change_nothing(chunk, monkeypatch):
  noise = np.random.default_rng(2)
  places, _ = random_places(noise)
  q, k, v = random_qkv(noise, places)
  out = noise.standard_normal(q.shape).astype("f")

  def run():
    @jax.jit
    def value_and_gradient(*x):
      attend = lambda *x: attentions.attention(*x, places, places)
      value, pull = jax.vjp(attend, *x)
      return value, pull(out)

    return value_and_gradient(q, k, v)

  whole = run()
  monkeypatch.setattr(attentions, "QUERY_CHUNK", chunk)
  tiny.assert_near(run(), whole, 1e-6)


@pytest.mark.parametrize("length", [64, 72, 49])
def test_long_rows_hold_no_square_of_scores(length, monkeypatch):
  monkeypatch.setattr(attentions, "QUERY_CHUNK", 16)
  x = jnp.zeros((1, length, 1, 2))
  at = jnp.zeros((1, length), jnp.int32)
  places = Places(at, at, at)
  trace = lambda: jax.make_jaxpr(
    jax.grad(lambda q: attentions.attention(q, x, x, places, places).sum())
  )(x)
  square = f"{length},{length}]"
  assert square not in str(trace())
  monkeypatch.setattr(attentions, "QUERY_CHUNK", length)
  assert square in str(trace())


def test_rotation_spelled_out():
  x = np.array([[[[1.0, 2.0, 3.0, 4.0]]]], np.float32)  # pairs (1, 3), (2, 4)
  found = rope.rotate(x, np.array([[5]]), rope.frequencies(4, 100.0))[0, 0, 0]
  one, two = 5 * 100.0**0, 5 * 100.0**-0.5  # angles: 5 and 0.5
  wanted = [
    1 * np.cos(one) - 3 * np.sin(one),
    2 * np.cos(two) - 4 * np.sin(two),
    3 * np.cos(one) + 1 * np.sin(one),
    4 * np.cos(two) + 2 * np.sin(two),
  ]
  np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_rotation_is_exact_at_far_positions_in_bfloat16():
  x = np.ones((1, 1, 1, 2), np.float32)
  # A position of 1001 is no bfloat16 number; angles must be float32.
  speed = rope.frequencies(2, 10.0)
  found = rope.rotate(jnp.bfloat16(x), np.array([[1001]]), speed)
  wanted = [np.cos(1001) - np.sin(1001), np.cos(1001) + np.sin(1001)]
  assert found.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float32(found)[0, 0, 0], wanted, rtol=1e-2)


# Packed rows against the plain model.


@functools.partial(jax.jit, static_argnums=0)
def packed_numbers(config, params, batch, factor):
  """Logits [R, M, V], and the gradient of sum(factor * logps)."""
  model = Model(config)

  def loss(params):
    weights = Weights({}, params)
    states = lm.hidden(model, weights, batch.tokens, trio.places(batch))
    logps = lm.logps(
      model, weights, states, batch.target_place, batch.target_token, False
    )
    at = jnp.take_along_axis(states, batch.target_place[..., None], axis=1)
    logits = lm.logits(model, weights, at)
    return jnp.sum(factor * trio.scatter(logps, batch)), logits

  grads, logits = jax.grad(loss, has_aux=True)(params)
  return logits, grads


@functools.partial(jax.jit, static_argnums=0)
def alone_numbers(config, params, tokens, factor):
  """The same for sequences [N, T]; factor[n, t] weighs token t + 1."""

  def loss(params):
    one = lambda x: plain_model.logits(config, params, x, jnp)
    logits = jax.vmap(one)(tokens)
    every = jax.nn.log_softmax(logits)[:, :-1]
    chosen = jnp.take_along_axis(every, tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.sum(factor * chosen), logits

  grads, logits = jax.grad(loss, has_aux=True)(params)
  return logits, grads


def by_slot(batch, values):
  """[R, M, ...] -> {flat place in [B, K, T]: value}; no place twice."""
  padding = batch.completion_mask.size
  found = {}
  for r, m in np.argwhere(np.asarray(batch.target_slot) != padding):
    slot = int(batch.target_slot[r, m])
    assert slot not in found
    found[slot] = values[r, m]
  return found


@functools.cache
def alone(config, head_is_embedding=False):
  """(factor [B, K, T], logits by slot, gradient) of every sequence alone."""
  noise = np.random.default_rng(5)
  shape = (SHAPE.prompts, SHAPE.completions, SHAPE.tokens)
  factor = noise.standard_normal(shape).astype("f")
  tokens, weigh, slots = [], [], []
  for b, group in enumerate(make_groups()):
    for k, completion in enumerate(group.completions):
      first, n = len(group.prompt) - 1, len(completion)
      row = np.concatenate([group.prompt, completion])
      # What follows a sequence cannot matter to a causal model.
      tokens.append(np.pad(row, (0, LONGEST - len(row)), mode="wrap"))
      weigh.append(np.zeros(LONGEST - 1, np.float32))
      weigh[-1][first : first + n] = factor[b, k, :n]
      slots.append((np.ravel_multi_index((b, k, 0), shape), first, n))
  params = tiny.params(config)
  if head_is_embedding:
    params["head"]["kernel"] = params["embed"]["embedding"].T
  logits, grads = alone_numbers(
    config, params, np.stack(tokens), np.stack(weigh)
  )
  by = {
    start + t: np.asarray(logits[row, first + t])
    for row, (start, first, n) in enumerate(slots)
    for t in range(n)
  }
  return factor, by, grads


def as_packed(batch, noise):
  return batch


def in_any_row_order(batch, noise):
  order = noise.permutation(SHAPE.rows)
  names = packing._ROW_FIELDS + packing._TARGET_FIELDS
  return batch.replace(**{n: getattr(batch, n)[order] for n in names})


def in_any_slot_order(batch, noise):
  """Slots of a row shuffled: order is a matter of positions alone."""
  fields = {n: getattr(batch, n).copy() for n in packing._ROW_FIELDS}
  places = {n: getattr(batch, n).copy() for n in ("target_place",)}
  for r in range(SHAPE.rows):
    order = noise.permutation(SHAPE.row_length)
    for name in fields:
      fields[name][r] = fields[name][r, order]
    places["target_place"][r] = np.argsort(order)[places["target_place"][r]]
  return batch.replace(**fields, **places)


def with_garbage_in_padding(batch, noise):
  empty = batch.group == 0
  assert empty.sum() > 10
  draw = lambda high, old: np.where(
    empty, noise.integers(0, high, old.shape), old
  ).astype(np.int32)
  unused = batch.target_slot == batch.completion_mask.size
  target = np.where(unused, noise.integers(0, 53, unused.shape), 0)
  return batch.replace(
    tokens=draw(53, batch.tokens),
    positions=draw(20, batch.positions),
    branch=draw(4, batch.branch),
    target_token=(batch.target_token + target).astype(np.int32),
  )


def assert_equal_to_alone(batch, found, wanted):
  (found, found_grads), (logits, grads) = found, wanted
  found = by_slot(batch, np.asarray(found))
  assert sorted(found) == sorted(logits)
  stack = lambda by: np.stack([by[slot] for slot in sorted(by)])
  tiny.assert_near(stack(found), stack(logits))
  tiny.assert_near(found_grads, grads)


@pytest.mark.parametrize(
  "change",
  [as_packed, in_any_row_order, in_any_slot_order, with_garbage_in_padding],
)
def test_packed_equals_every_sequence_alone(change):
  factor, *wanted = alone(UNTIED)
  batch = change(make_batch(make_groups()), np.random.default_rng(8))
  params = tiny.params(UNTIED)
  found = packed_numbers(UNTIED, params, tiny.on_device(batch), factor)
  assert_equal_to_alone(batch, found, wanted)


def test_a_tied_head_is_the_embedding_and_adds_its_gradient():
  factor, logits, grads = alone(UNTIED, head_is_embedding=True)
  kernel = grads.pop("head")["kernel"]
  grads["embed"]["embedding"] += kernel.T
  batch, params = make_batch(make_groups()), tiny.params(UNTIED)
  del params["head"]
  found = packed_numbers(TIED, params, tiny.on_device(batch), factor)
  assert_equal_to_alone(batch, found, (logits, grads))


def test_these_groups_share_rows_and_one_spans_rows():
  batch = make_batch(make_groups())
  size = SHAPE.completions * SHAPE.tokens
  prompt = np.where(
    batch.target_slot < SHAPE.prompts * size, batch.target_slot // size, -1
  )
  rows = [set(np.flatnonzero((prompt == b).any(1))) for b in range(6)]
  assert len(rows[2]) == 2
  assert sorted(batch.group.max(axis=1)) == [1, 2, 2, 2]


@functools.partial(jax.jit, static_argnums=0)
def states_of(model, whole, tokens, places):
  return lm.hidden(model, Weights({}, whole), tokens, places)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_siblings_do_not_leak(dtype):
  prompt, first, second, third = [7, 3, 9], [4, 4, 8, 1], [30, 2], [5, 6, 11]
  other = ([12, 13], [(1, [14, 15, 16]), (2, [17])])
  model, whole = Model(tiny.CONFIG, dtype=dtype), tiny.params()
  run = lambda *completions: np.asarray(
    states_of(model, whole, *tiny.one_row((prompt, list(completions)), other))
  )[0]
  before = run((1, first), (2, second), (3, third))
  mine = {0: range(3), 1: range(3, 7), 2: range(7, 9), 3: range(9, 12)}
  rest = range(12, 20)  # the other group and the padding
  same = lambda a, b: np.array_equal(a, b) and np.isfinite(np.float32(a)).all()

  replaced = run((1, first), (2, [44, 45]), (3, third))
  still = [*mine[0], *mine[1], *mine[3], *rest]
  assert same(replaced[still], before[still])
  assert not (replaced[mine[2]] == before[mine[2]]).any(-1).all()

  permuted = run((2, second), (1, first), (3, third))
  still = [*mine[0], *mine[3], *rest]
  assert same(permuted[still], before[still])
  limit = 1e-5 if dtype == "float32" else 0.1
  tiny.assert_near(
    np.float32(permuted[3:9]),
    np.float32(before[[*mine[2], *mine[1]]]),
    limit,
  )

  renamed = run((3, first), (1, second), (2, third))
  assert same(renamed, before)


def test_rows_of_padding_are_finite_and_without_gradient():
  batch = make_batch(make_groups()[:1])
  assert (batch.group[1:] == 0).all()
  factor = np.ones(batch.completion_mask.shape, np.float32)
  params = tiny.params(UNTIED)
  run = lambda batch: packed_numbers(
    UNTIED, params, tiny.on_device(batch), factor
  )
  logits, grads = run(batch)
  assert np.isfinite(logits).all()
  logits, none = run(make_batch([]))
  assert np.isfinite(logits).all()
  for leaf in jax.tree.leaves(none):
    assert (np.asarray(leaf) == 0).all()
  for leaf in jax.tree.leaves(grads):
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0
