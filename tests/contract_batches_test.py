"""What every registered method promises about the batch around a prompt.

Like contract_test.py this names no method.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods import inputs
from tests.methods.outputs import (
  assert_same,
  assert_same_state,
  batches,
  longest,
  loss_of,
  numbers,
  spoiled,
)
from tests.methods.variants import EAGER, PROMPTS, TOKENS, make, variants
from xpo_jax.methods import registry

CHUNK = 2  # prompts of a microbatch

every_method = pytest.mark.parametrize("name", registry.names())


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def without_draws(x):
  """A drawn number belongs to a place in the batch, not to a prompt.

  So where prompts move, methods with a key are held to the rule in evaluation,
  which draws nothing.
  """
  return x if x.noise is None else x.replace(train=False)


@every_method
def test_order_of_the_batch_never_matters(name, x64):
  order = np.random.default_rng(1).permutation(PROMPTS)
  for _, x in batches(name):
    x = without_draws(x)
    got = numbers(loss_of(name, inputs.map_prompts(x, lambda v: v[order])))
    want = {k: v[order] for k, v in numbers(loss_of(name, x)).items()}
    assert_same(got, want)


def among_empty_slots(x, start, count=CHUNK):
  """The prompts from `start` on, first in a batch of otherwise empty slots."""

  def cut(value):
    kept = value[start : start + count]
    empty = np.zeros((len(value) - count, *value.shape[1:]), value.dtype)
    return np.concatenate([kept, empty])

  return inputs.map_prompts(x, cut)


@every_method
def test_empty_slots_change_nothing(name, x64):
  """Whatever a slot of weight 0 holds."""
  for _, x in batches(name):
    blank = among_empty_slots(x, 0)
    want = loss_of(name, blank)
    got = loss_of(name, x.replace(weight=blank.weight))
    assert_same_state(got.state, want.state)
    expected = numbers(want, metrics=False)
    for key, value in numbers(got, metrics=False).items():
      np.testing.assert_allclose(value, expected[key], err_msg=key, atol=1e-12)
      assert not np.any(value[CHUNK:]), f"{key} of an empty slot is not 0"


@every_method
def test_jit_and_sizes_change_nothing(name, x64):
  """Six prompts, padded wider, without jit = six among two empty slots, jitted.

  They come first, where a key draws the same for 6 prompts as for 8.
  """
  method, x = longest(name)
  count, width = EAGER["prompts"], EAGER["tokens"] - TOKENS

  def resize(value):
    pad = [(0, 0)] * (value.ndim - 1) + [(0, width * (value.ndim == 3))]
    return np.pad(value[:count], pad)

  want = method.loss(inputs.map_prompts(x, resize))
  got = loss_of(name, among_empty_slots(x, 0, count))
  expected = numbers(want, metrics=False)
  for key, value in numbers(got, metrics=False).items():
    np.testing.assert_allclose(value[:count], expected[key], err_msg=key)
  for key, value in want.metrics.items():
    mean = np.mean(np.asarray(got.metrics[key])[:count])
    np.testing.assert_allclose(mean, np.mean(value), err_msg=key, atol=1e-12)
  np.testing.assert_allclose(inputs.total(got), inputs.total(want))
  assert_same_state(got.state, want.state)


@every_method
def test_weights_multiply_numerators_only(name, x64):
  for _, x in batches(name):
    factor = np.linspace(0.5, 4.0, PROMPTS)
    got = numbers(loss_of(name, x.replace(weight=jnp.asarray(factor))))
    want = numbers(loss_of(name, x))
    for key in want:
      if key == "loss" or key.endswith("/sum"):
        want[key] = want[key] * factor
    assert_same(got, want)


def in_chunks(loss, x):
  """The per-prompt numbers of microbatches, joined."""
  parts = [
    numbers(loss(among_empty_slots(x, start)), metrics=False)
    for start in range(0, len(x.weight), CHUNK)
  ]
  return {
    key: np.concatenate([part[key][:CHUNK] for part in parts])
    for key in parts[0]
  }


@every_method
def test_microbatches_add_up_or_the_flag_says_not(name, x64):
  """Also where a keyword turns the coupling on or off."""
  method = registry.get(name)
  by_flag = {}
  for settings in variants(method):
    by_flag.setdefault(method.couples_batch(settings), settings)
  for couples, settings in by_flag.items():
    loss, sizes = functools.partial(method.loss, **settings), EAGER
    if settings == method.keywords:
      loss, sizes = functools.partial(loss_of, name), {}
    for case in inputs.cases(method, settings):
      draw = functools.partial(make, method, case, settings, **sizes)
      if couples:
        assert any(chunks_differ(loss, draw(seed=s)) for s in range(5)), case
      else:
        x = without_draws(draw())
        assert_same(in_chunks(loss, x), numbers(loss(x), metrics=False))


def chunks_differ(loss, x):
  """With a key only the first chunk draws what the whole batch draws."""
  difference = in_chunks(loss, x)["loss"] - loss(x).loss
  seen = difference if x.noise is None else difference[:CHUNK]
  return np.max(np.abs(seen)) > 1e-6


@pytest.mark.parametrize(
  "name", [n for n in registry.names() if registry.get(n).prepare is not None]
)
def test_prepare_keeps_the_same_promises(name, x64):
  """Order, padding and empty slots change nothing; all is finite."""
  method = registry.get(name)
  kind, k = inputs.cases(method, method.keywords)[-1]
  x = make(method, (kind, k), **EAGER)
  count = len(x.weight)

  def prepared(x):
    after = method.prepare(x, **method.keywords)
    return {k: np.asarray(v) for k, v in inputs.float_fields(after).items()}

  want = prepared(x)
  assert want["advantages"].shape == x.completion_mask.shape
  for key, value in want.items():
    assert np.all(np.isfinite(value)), key
  order = np.arange(count)[::-1]
  turned = prepared(inputs.map_prompts(x, lambda v: v[order]))
  assert_same(turned, {k: v[order] for k, v in want.items()})
  assert_same(prepared(spoiled(x)), want)
  blank = among_empty_slots(x, 0, count - 2)
  got = prepared(x.replace(weight=blank.weight))
  for key, value in prepared(blank).items():
    np.testing.assert_allclose(
      got[key][: count - 2], value[: count - 2], err_msg=key, atol=1e-12
    )
