"""Chunked log-probs equal the plain softmax, without its [R, M, V] arrays."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny_models as tiny
from xpo_jax.models import heads

ROWS, TARGETS, WIDTH, VOCABULARY = 3, 7, 6, 41


def draw(seed=0, rows=ROWS, targets=TARGETS, vocabulary=VOCABULARY):
  noise = np.random.default_rng(seed)
  hidden = noise.standard_normal((rows, targets, WIDTH)).astype("f")
  kernel = noise.standard_normal((WIDTH, vocabulary)).astype("f")
  target = noise.integers(0, vocabulary, (rows, targets)).astype(np.int32)
  return hidden, kernel, target


def plain(hidden, kernel, targets, cap=np.inf, temperature=1.0):
  """(log-probs, gradients of sum(factor * log-probs)) in float64."""
  hidden, kernel = hidden.astype(float), kernel.astype(float)
  logits, slope = hidden @ kernel, 1.0
  if cap < np.inf:
    slope = 1 / np.cosh(logits / cap) ** 2
    logits = cap * np.tanh(logits / cap)
  slope, logits = slope / temperature, logits / temperature
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  logps = np.log(np.take_along_axis(p, targets[..., None], -1)[..., 0])
  rows, count = targets.shape
  factor = cosines(rows, count)
  hit = np.zeros_like(p)
  np.put_along_axis(hit, targets[..., None], 1.0, -1)
  d_logits = (hit - p) * factor[..., None] * slope
  return logps, d_logits @ kernel.T, np.einsum("rmd,rmv->dv", hidden, d_logits)


def cosines(rows, count):
  """Factors of both signs."""
  return np.cos(np.arange(rows * count)).reshape(rows, count).astype("f")


def chunked(hidden, kernel, targets, **how):
  def loss(hidden, kernel):
    logps = heads.token_logps(hidden, kernel, targets, **how)
    return jnp.sum(cosines(*targets.shape) * logps), logps

  grads, logps = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(hidden, kernel)
  return logps, *grads


# 3 rows: chunks of 7, 2 (of 7: ragged), 1 and 1 targets a row.
@pytest.mark.parametrize("chunk_tokens", [512, 8, 3, 1])
def test_values_and_gradients_are_those_of_log_softmax(chunk_tokens):
  inputs = draw()
  found = chunked(*inputs, chunk_tokens=chunk_tokens)
  tiny.assert_near(found, plain(*inputs), 1e-5)


def test_soft_caps_bend_values_and_gradients():
  inputs = draw()
  found = chunked(*inputs, chunk_tokens=8, cap=2.5)
  tiny.assert_near(found, plain(*inputs, cap=2.5), 1e-5)
  assert np.abs(inputs[0] @ inputs[1]).max() > 5


def test_a_temperature_divides_the_capped_logits():
  inputs, how = draw(), dict(cap=2.5, temperature=0.6)
  found = chunked(*inputs, chunk_tokens=8, **how)
  tiny.assert_near(found, plain(*inputs, **how), 1e-5)


def test_large_logits_stay_finite():
  hidden, kernel, targets = draw()
  logps, d_hidden, d_kernel = chunked(300 * hidden, kernel, targets)
  logits = 300 * hidden.astype(float) @ kernel
  top = logits.max(-1)
  log_total = top + np.log(np.exp(logits - top[..., None]).sum(-1))
  wanted = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
  np.testing.assert_allclose(logps, wanted - log_total, rtol=1e-5, atol=1e-3)
  assert np.isfinite(d_hidden).all() and np.isfinite(d_kernel).all()


def test_a_frozen_kernel_gets_no_gradient_and_the_states_the_same():
  inputs = draw()
  _, d_hidden, d_kernel = chunked(*inputs, chunk_tokens=8)
  logps, again, none = chunked(*inputs, chunk_tokens=8, kernel_is_frozen=True)
  np.testing.assert_array_equal(again, d_hidden)
  assert none.shape == d_kernel.shape and not np.asarray(none).any()
  tiny.assert_near(logps, plain(*inputs)[0], 1e-5)


def test_bfloat16_states_give_float32_logps_from_float32_logits():
  hidden, kernel, targets = draw(vocabulary=300)
  low, low_kernel = jnp.bfloat16(hidden), jnp.bfloat16(kernel)
  logps, d_hidden, d_kernel = chunked(low, kernel, targets, chunk_tokens=8)
  assert logps.dtype == jnp.float32
  assert d_hidden.dtype == jnp.bfloat16
  assert d_kernel.dtype == jnp.float32
  # Only the inputs are rounded: sums and softmax are float32.
  wanted = plain(np.float32(low), np.float32(low_kernel), targets)
  tiny.assert_near(logps, wanted[0], 1e-5)
  tiny.assert_near((np.float32(d_hidden), d_kernel), wanted[1:], 2e-2)


def largest_buffer(function, *inputs) -> int:
  """Elements of the largest array anywhere in the compiled program."""
  text = jax.jit(function).lower(*inputs).compile().as_text()
  shapes = re.findall(r"\b(?:pred|[a-z]+\d+\w*)\[([\d,]*)\]", text)
  assert len(shapes) > 10
  return max(
    math.prod(int(n) for n in shape.split(",") if n) for shape in shapes
  )


@pytest.mark.parametrize("frozen", [False, True])
def test_compiled_program_holds_no_targets_by_vocabulary(frozen):
  hidden, kernel, targets = draw(rows=4, targets=60, vocabulary=500)

  def loss(hidden, kernel):
    return heads.token_logps(
      hidden, kernel, targets, kernel_is_frozen=frozen, chunk_tokens=32
    ).sum()

  def naive(hidden, kernel):
    every = jax.nn.log_softmax(hidden @ kernel)
    return jnp.take_along_axis(every, targets[..., None], axis=-1).sum()

  whole = 4 * 60 * 500
  both = lambda f: jax.value_and_grad(f, (0, 1))
  assert largest_buffer(both(naive), hidden, kernel) >= whole
  # 32 tokens at once, and nothing else near the size of their logits.
  assert largest_buffer(both(loss), hidden, kernel) <= 32 * 500


def test_gather_is_row_local():
  hidden = np.arange(2 * 4 * 3, dtype=np.float32).reshape(2, 4, 3)
  place = np.array([[3, 0, 0], [1, 1, 2]], np.int32)
  found = np.asarray(heads.gather(hidden, place))
  for r in range(2):
    for m in range(3):
      np.testing.assert_array_equal(found[r, m], hidden[r, place[r, m]])


def test_reward_is_a_dot_product_and_a_bias_in_float32():
  head = {
    "kernel": np.array([1.0, -2.0, 0.5], np.float32),
    "bias": np.float32(0.25),
  }
  hidden = np.array([[[1, 2, 4], [0, 1, 0]]], np.float32)
  found = heads.reward(head, jnp.bfloat16(hidden))
  assert found.dtype == jnp.float32
  # 1 - 4 + 2 + 0.25 and -2 + 0.25.
  np.testing.assert_array_equal(found, [[-0.75, -1.75]])


def test_reward_of_bfloat16_states_is_not_rounded_to_bfloat16():
  head = {"kernel": np.float32([1.0, 1.0]), "bias": np.float32(0)}
  hidden = jnp.bfloat16([256.0, 1.0])  # 257 is no bfloat16 number
  assert float(heads.reward(head, hidden)) == 257.0


def test_reward_head_starts_at_one_over_root_width_plus_one():
  head = heads.init_reward_head(jax.random.key(3), 4095)
  kernel = np.asarray(head["kernel"])
  assert kernel.shape == (4095,) and kernel.dtype == np.float32
  assert float(head["bias"]) == 0.0
  # The standard error of a standard deviation is 1 / sqrt(2 n) = 1.1%.
  assert abs(kernel.std() * math.sqrt(4096) - 1) < 0.04
  assert abs(kernel.mean() * 4096) < 4
  narrow = [
    float(heads.init_reward_head(jax.random.key(n), 1)["kernel"][0])
    for n in range(200)
  ]
  assert abs(np.std(narrow) * math.sqrt(2) - 1) < 0.2


def test_chunks_are_counted_on_each_device():
  sizes = lambda: [heads.chunk_size(r, 300, 512) for r in (1, 4, 64, 1024)]
  assert sizes() == [300, 128, 8, 1]
  grid = np.array(jax.devices()[:8]).reshape(2, 4, 1)
  mesh = jax.sharding.Mesh(
    grid,
    ("data", "fsdp", "tensor"),
    axis_types=(jax.sharding.AxisType.Auto,) * 3,
  )
  with jax.set_mesh(mesh):
    assert sizes() == [300, 300, 64, 4]
    assert jax.jit(lambda x: x * heads.chunk_size(64, 300, 512))(1) == 64
