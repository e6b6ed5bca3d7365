"""Schedules and first updates against arithmetic."""

import math

import jax
import numpy as np
import pytest

from xpo_jax import config
from xpo_jax.errors import XpoError
from xpo_jax.optimizer import make_optimizer, make_schedule

RATE = 0.25


def settings(**changes):
  c = config.base().unlock().optimizer
  c.update(dict(learning_rate=RATE, schedule="constant", grad_clip=0.0))
  c.update(changes)
  return c


@pytest.mark.parametrize(
  "schedule, warmup, wanted",
  [
    # Warm-up of 4 steps to 0.25: the first step already moves.
    ("constant", 4, {0: 1 / 16, 1: 2 / 16, 3: 4 / 16, 4: 0.25, 11: 0.25}),
    ("linear", 4, {0: 1 / 16, 3: 0.25, 4: 0.25, 8: 0.125, 11: 1 / 32, 12: 0}),
    (
      "cosine",
      4,
      {3: 0.25, 6: 0.125 * (1 + math.cos(math.pi / 4)), 8: 0.125, 12: 0},
    ),
    ("linear", 0, {0: 0.25, 6: 0.125, 12: 0}),
    ("cosine", 0, {0: 0.25, 3: 0.125 * (1 + math.cos(math.pi / 4)), 12: 0}),
    ("constant", 1, {0: 0.25, 1: 0.25}),
    ("linear", 12, {0: 0.25 / 12, 11: 0.25}),  # all of it warm-up
  ],
)
def test_schedule(schedule, warmup, wanted):
  make = make_schedule(settings(schedule=schedule, warmup_steps=warmup), 12)
  for step, value in wanted.items():
    assert float(make(step)) == pytest.approx(value, abs=1e-7), step


def update(params, grads, steps=1, **changes):
  """Parameters after some steps with the same gradient."""
  tx = make_optimizer(settings(**changes), 100)
  state = tx.init(params)
  for _ in range(steps):
    updates, state = tx.update(grads, state, params)
    params = jax.tree.map(np.add, params, updates)
  return params


@pytest.mark.parametrize(
  "name, change",
  [
    ("sgd", lambda g: -RATE * g),
    # Bias-corrected moments of one gradient: g / sqrt(g^2) is its sign.
    ("adamw", np.sign),
    ("lion", np.sign),
    # The mean of squares starts at 0 and takes 1% of g^2.
    ("rmsprop", lambda g: g / np.sqrt(0.01 * g**2)),
    # Unfactored: g over its own size, then no longer than 1 (RMS), then times
    # the parameter's RMS.
    ("adafactor", lambda g: np.sign(g) * math.sqrt((4 + 1 + 9 + 36) / 4)),
  ],
)
def test_first_update(name, change):
  w = np.array([[2.0, -1.0], [3.0, 6.0]], np.float32)
  g = np.array([[0.5, -4.0], [2.0, 1.0]], np.float32)
  step = change(g) if name == "sgd" else -RATE * change(g)
  found = update({"kernel": w}, {"kernel": g}, name=name)
  np.testing.assert_allclose(found["kernel"], w + step, rtol=1e-4)


def test_second_adamw_update_uses_the_decays():
  g1, g2, b1, b2 = 1.0, 3.0, 0.8, 0.95
  tx = make_optimizer(settings(b1=b1, b2=b2), 100)
  w = {"kernel": np.zeros((1, 1), np.float32)}
  state = tx.init(w)
  for g in (g1, g2):
    found, state = tx.update({"kernel": np.full((1, 1), g, "f4")}, state, w)
  mean = (b1 * (1 - b1) * g1 + (1 - b1) * g2) / (1 - b1**2)
  square = (b2 * (1 - b2) * g1**2 + (1 - b2) * g2**2) / (1 - b2**2)
  wanted = -RATE * mean / math.sqrt(square)
  assert float(found["kernel"][0, 0]) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_weight_decay_spares_norms_and_biases(name):
  ones = lambda *shape: np.ones(shape, np.float32)
  params = {
    "embed": {"embedding": ones(4, 2)},
    "blocks": {  # stacked: a norm is [N, D], a bias [N, F]
      "mlp_norm": {"scale": ones(3, 2)},
      "mlp": {"up": ones(3, 2, 4), "up_bias": ones(3, 4)},
    },
    "final_norm": {"scale": ones(2)},
    "reward_head": {"kernel": ones(2), "bias": ones()},
  }
  zero = jax.tree.map(np.zeros_like, params)
  found = update(params, zero, name=name, weight_decay=0.1)
  less = 1 - RATE * 0.1
  wanted = {
    "embed": {"embedding": less},
    "blocks": {"mlp_norm": {"scale": 1}, "mlp": {"up": less, "up_bias": 1}},
    "final_norm": {"scale": 1},
    "reward_head": {"kernel": 1, "bias": 1},
  }
  for path, value in jax.tree_util.tree_leaves_with_path(wanted):
    leaf = found
    for key in path:
      leaf = leaf[key.key]
    np.testing.assert_allclose(leaf, value, rtol=1e-6, err_msg=str(path))


def test_gradients_are_clipped_by_their_global_norm():
  zero = {"a": np.zeros((1, 2), "f4"), "b": np.zeros((1, 1), "f4")}
  grads = {"a": np.array([[3.0, 0.0]], "f4"), "b": np.array([[4.0]], "f4")}
  clipped = update(zero, grads, name="sgd", grad_clip=1.0)
  np.testing.assert_allclose(clipped["a"], [[-RATE * 0.6, 0.0]], rtol=1e-6)
  np.testing.assert_allclose(clipped["b"], [[-RATE * 0.8]], rtol=1e-6)
  whole = update(zero, grads, name="sgd", grad_clip=0.0)
  np.testing.assert_allclose(whole["b"], [[-RATE * 4.0]], rtol=1e-6)
  below = update(zero, grads, name="sgd", grad_clip=5.5)
  np.testing.assert_allclose(below["b"], [[-RATE * 4.0]], rtol=1e-6)


@pytest.mark.parametrize(
  "changes, words",
  [
    (dict(name="adamx"), "optimizer.name='adamx': choose adamw, sgd"),
    (dict(schedule="step"), "optimizer.schedule='step': choose cosine"),
    (dict(name="sgd", weight_decay=0.1), "not used by sgd"),
  ],
)
def test_wrong_settings(changes, words):
  with pytest.raises(XpoError, match=words):
    make_optimizer(settings(**changes), 10)
