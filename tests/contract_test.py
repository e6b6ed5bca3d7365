"""What every registered method promises, whatever its formula: the numbers.

Nothing here names a method: a new file in xpo_jax/methods is covered at once.
Batches of other prompts, sizes and orders: contract_batches_test.py. Errors,
keywords and words: contract_keywords_test.py.

One compiled function a method (loss and all gradients) serves both number
tests, on the shape [8, K, 6]. What runs without jit has the shape [6, K, 8]
everywhere: each new shape of an operation costs a compilation.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods import inputs
from tests.methods.outputs import (
  assert_same,
  assert_same_state,
  batches,
  compiled,
  longest,
  loss_of,
  numbers,
  spoiled,
)
from tests.methods.variants import PROMPTS, TOKENS
from xpo_jax.methods import registry
from xpo_jax.types import LIVE_INPUTS

every_method = pytest.mark.parametrize("name", registry.names())


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def live_only(grads):
  return {k: v for k, v in grads.items() if k in LIVE_INPUTS}


def extremes(x):
  """Log-ratios of +-1e4 on either side, and tokens of probability one.

  A policy, reference or sampler that gives one token 1e4 nats less is what a
  broken tokenizer or a collapsed policy looks like.
  """
  k = x.completion_mask.shape[1]
  policy = np.zeros((PROMPTS, k, 1))
  reference, sampler = policy.copy(), policy.copy()
  policy[0, 0] = policy[1, -1] = policy[2] = -1e4
  reference[3, 0] = reference[4, -1] = reference[5] = -1e4
  sampler[1:4] = -1e4
  sign = np.where(np.arange(PROMPTS) % 2 == 0, 1e4, -1e4)
  shifts = {
    "policy_logps": policy,
    "reference_logps": reference,
    "sampler_logps": sampler,
    "contrast_logps": policy[::-1],
    "log_collision": policy[::-1],
    "token_kl": -policy,
    "scores": sign[:, None] * (-1.0) ** np.arange(k),
    "token_scores": sign[:, None, None] * np.ones((1, k, 1)),
    "values": sign[:, None, None] * np.ones((1, k, 1)),
  }
  changes = {}
  for name in shifts.keys() & inputs.float_fields(x).keys():
    value = np.array(getattr(x, name))
    first = np.arange(TOKENS) == 0 if value.ndim == 3 else 1.0
    value += (shifts[name] * first).astype(value.dtype)
    if name == "policy_logps":
      value[-1] = 0.0
    changes[name] = jnp.asarray(value)
  return x.replace(**changes)


def assert_finite_at_extremes(name, x):
  out, grads, _ = compiled(name)(extremes(x))
  for key, value in {**numbers(out), **live_only(grads)}.items():
    assert np.all(np.isfinite(value)), (x.feedback_kind, key)


@every_method
def test_finite_at_extremes_in_float32(name):
  assert_finite_at_extremes(name, longest(name, dtype=jnp.float32)[1])


@every_method
def test_finite_at_extremes_in_float64(name, x64):
  for _, x in batches(name):
    assert_finite_at_extremes(name, x)


@every_method
def test_shapes_gradients_and_metrics(name, x64):
  for _, x in batches(name):
    out, grads, metric_grads = compiled(name)(x)
    for key, value in numbers(out).items():
      assert value.shape == (PROMPTS,) and value.dtype == np.float64, key
      assert np.all(np.isfinite(value)), key
    frozen = grads.keys() - set(LIVE_INPUTS)
    assert frozen >= {"feedback", "weight"}
    for key in frozen:
      assert not np.any(grads[key]), f"gradient into {key}"
    for key in metric_grads:
      assert not np.any(metric_grads[key]), f"metrics have a gradient to {key}"
    live = live_only(grads)
    assert any(np.any(grad) for grad in live.values()), "nothing to learn from"
    for key, grad in live.items():
      assert np.all(np.isfinite(grad)), key


@every_method
def test_masked_content_never_matters(name, x64):
  for _, x in batches(name):
    out, grads, _ = compiled(name)(spoiled(x))
    want, clean, _ = compiled(name)(x)
    assert_same(numbers(out), numbers(want))
    assert_same(grads, clean)
    masks = {3: np.asarray(x.completion_mask), 2: np.asarray(x.present)}
    for key, grad in live_only(grads).items():
      assert not np.any(np.asarray(grad)[~masks[grad.ndim]]), key


@every_method
def test_bfloat16_inputs_give_a_float32_loss(name):
  for method, x in batches(name, dtype=jnp.bfloat16):
    out = jax.eval_shape(method.loss, x)
    leaves = out.loss, out.weight, out.metrics, out.terms
    dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(leaves)}
    assert dtypes == {"float32"}


@every_method
def test_state_moves_in_training_only(name, x64):
  for _, x in batches(name):
    moved = loss_of(name, x).state
    if x.state is None:
      assert moved is None
      continue
    kept = loss_of(name, x.replace(train=False)).state
    assert_same_state(kept, x.state)
    form = lambda state: jax.tree.map(lambda v: (v.shape, v.dtype), state)
    assert form(moved) == form(x.state)
    pairs = zip(jax.tree.leaves(moved), jax.tree.leaves(x.state), strict=True)
    assert any(np.any(a != b) for a, b in pairs), "the state never moves"
