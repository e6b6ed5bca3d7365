"""What list, token and forgetting losses share in ops."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xpo_jax import ops
from xpo_jax.errors import XpoError
from xpo_jax.types import LossInputs

NAN = float("nan")


def batch(weight=(1.0, 1.0, 0.0)):
  """Three prompts x two completions x three tokens; the last weighs nothing."""
  mask = [
    [[True, True, False], [True, False, False]],
    [[True, True, True], [False, False, False]],
    [[True, True, True], [True, True, True]],
  ]
  return LossInputs(
    policy_logps=None,
    completion_mask=jnp.asarray(mask),
    present=jnp.asarray([[True, True], [True, False], [True, True]]),
    ended=jnp.ones((3, 2), bool),
    feedback=jnp.asarray([[-1.0, 1.0], [1.0, 0.0], [-1.0, 1.0]]),
    weight=jnp.asarray(weight),
  )


def test_masked_log_softmax():
  x = jnp.asarray([[1.0, NAN, 3.0], [NAN, NAN, NAN], [5.0, 0.0, 0.0]])
  mask = jnp.asarray([[True, False, True], [False] * 3, [True, False, False]])
  got = ops.masked_log_softmax(x, mask)
  log_sum = math.log(math.exp(1) + math.exp(3))
  want = [[1 - log_sum, 0, 3 - log_sum], [0, 0, 0], [0, 0, 0]]
  np.testing.assert_allclose(got, want, rtol=1e-6)
  grad = jax.grad(lambda x: ops.masked_log_softmax(x, mask)[0, 0])(x)
  p = math.exp(1 - log_sum)
  want = [[1 - p, 0, p - 1], [0, 0, 0], [0, 0, 0]]
  np.testing.assert_allclose(grad, want, rtol=1e-6)


def test_ranks_put_absent_entries_last_and_ties_in_order():
  x = jnp.asarray([3.0, -1.0, NAN, 3.0, 0.5])
  mask = jnp.asarray([True, True, False, True, True])
  np.testing.assert_array_equal(ops.ranks(x, mask), [2, 0, 4, 3, 1])


def test_token_nll_term():
  logps = jnp.asarray([[-1.0, -2.0, NAN], [-4.0, NAN, NAN], [-9.0, -9.0, NAN]])
  mask = jnp.isfinite(logps)
  numerator, denominator = ops.token_nll_term(
    logps, mask, jnp.asarray([0.5, 2.0, 0.0])
  )
  np.testing.assert_array_equal(numerator, [0.5 * 3, 2 * 4, 0])
  np.testing.assert_array_equal(denominator, [2, 1, 0])


def test_list_metrics_compare_best_and_worst():
  rewards = jnp.asarray([[0.1, 0.4, 0.2], [0.3, 0.1, 9.0]])
  feedback = jnp.asarray([[2.0, 7.0, 1.0], [1.0, 1.0, 5.0]])
  present = jnp.asarray([[True, True, True], [True, True, False]])
  logps = -jnp.arange(1.0, 7.0).reshape(2, 3, 1)
  got = ops.list_metrics(
    rewards, logps, jnp.ones((2, 3, 1), bool), feedback, present
  )
  want = {
    "rewards/chosen": [0.4, 0.3],
    "rewards/rejected": [0.2, 0.3],  # of equals the first counts, twice
    "rewards/margin": [0.2, 0.0],
    "rewards/accuracy": [1, 0],
    "logps/chosen": [-2, -4],
    "logps/rejected": [-3, -4],
  }
  assert got.keys() == want.keys()
  for key in want:
    np.testing.assert_allclose(got[key], want[key], rtol=1e-6, err_msg=key)


def test_tail_sum():
  x = jnp.asarray([[1.0, NAN, 10.0, 100.0]])
  mask = jnp.asarray([[True, False, True, True]])
  np.testing.assert_array_equal(ops.tail_sum(x, mask), [[111, 110, 110, 100]])


def test_live_tokens():
  x = batch()
  want = np.array(x.completion_mask)
  want[2] = False
  np.testing.assert_array_equal(ops.live_tokens(x), want)
  absent = x.replace(present=x.present.at[0, 0].set(False))
  want[0, 0] = False
  np.testing.assert_array_equal(ops.live_tokens(absent), want)


def test_per_completion_and_per_token():
  x = batch(weight=(2.0, 1.0, 0.0))
  loss = jnp.asarray([[1.0, 10.0], [3.0, NAN], [5.0, 5.0]])
  out = ops.per_completion(loss, x.present, x.weight, {})
  np.testing.assert_array_equal(out.loss, [2 * 11, 3, 0])
  np.testing.assert_array_equal(out.weight, [2, 1, 0])
  token = jnp.where(x.completion_mask, jnp.arange(1.0, 4.0), NAN)
  out = ops.per_token(token, x.completion_mask, x.weight, {})
  np.testing.assert_array_equal(out.loss, [2 * (1 + 2 + 1), 1 + 2 + 3, 0])
  np.testing.assert_array_equal(out.weight, [3, 3, 0])


def test_means_of_a_prompt():
  x = jnp.asarray([[1.0, 3.0, NAN], [NAN, NAN, NAN]])
  mask = jnp.isfinite(x)
  for mean in (ops.prompt_mean, ops.row_mean):
    np.testing.assert_array_equal(mean(x, mask), [2, 0])
  slope = lambda mean: jax.grad(lambda x: jnp.sum(mean(x, mask)))(x)
  assert not slope(ops.prompt_mean).any()
  np.testing.assert_array_equal(slope(ops.row_mean), mask / 2)


def test_forget_weight_counts_undesirable_completions():
  x = batch(weight=(3.0, 1.0, 0.0))
  np.testing.assert_array_equal(ops.forget_weight(x), [3, 0, 0])


def test_check_pair():
  ops.check_pair(batch(), "nca")
  triple = batch().replace(completion_mask=jnp.ones((1, 3, 2), bool))
  with pytest.raises(XpoError, match="nca .*K = 2.*has 3.*SCORE"):
    ops.check_pair(triple, "nca")
