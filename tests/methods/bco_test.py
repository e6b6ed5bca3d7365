"""BCO: a binary classifier around a running mean of the rewards."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods import inputs
from tests.methods import tokens as t
from xpo_jax.methods import registry
from xpo_jax.types import Feedback

BCO = registry.get("bco")
U = np.array([1.0, -1.0, -1.0, 0.5])  # u_w, u_l of methods.md 16.1
LABELS = np.array([1.0, 1.0, -1.0, -1.0])
MODES = ("cumulative", "batch", "ema", "zero")


def batch(u=U, labels=LABELS, mode="cumulative", state=None):
  reference = np.array([[-13.0], [-19.5], [-14.0], [-18.75]])
  x = inputs.from_sums(
    reference + np.asarray(u)[:, None],
    reference=reference,
    lengths=[[4], [5], [3], [5]],
    kind=Feedback.BINARY,
    feedback=np.asarray(labels)[:, None],
  )
  start = BCO.init_state(BCO.settings({"delta_mode": mode}))
  return x.replace(state=start if state is None else state)


def loss(x, beta=0.1, mode="cumulative"):
  return t.run("bco", x, beta=beta, delta_mode=mode)


def formula(delta, u=U, beta=0.1):
  return t.softplus(-LABELS * (beta * np.asarray(u) - delta))


@pytest.mark.parametrize("mode", ["cumulative", "batch"])
def test_golden(mode):
  got = loss(batch(mode=mode), mode=mode).loss
  t.close(got, formula(0.1 * (1 - 1 - 1 + 0.5) / 4))
  t.close(got, [0.6384783782, 0.7378539067, 0.6503539067, 0.7248853824])
  t.close(np.mean(got), 0.6878928935)


def test_cumulative_mean_of_every_example():
  first = loss(batch())
  x = batch(u=3 * U + 1, state=first.state)
  x = x.replace(weight=jnp.asarray([1.0, 1.0, 0.0, 1.0]))  # an empty slot
  second = loss(x)
  seen = 0.1 * np.concatenate([U, (3 * U + 1)[[0, 1, 3]]])
  assert second.state["count"] == 7
  t.close(second.state["mean"], seen.mean())
  t.close(second.loss, formula(seen.mean(), 3 * U + 1) * [1, 1, 0, 1])


def test_moving_average():
  first = loss(batch(mode="ema"), mode="ema")
  delta = 0.1 * -0.0125
  t.close(first.loss, formula(delta))
  second = loss(batch(u=U + 2, state=first.state), mode="ema")
  delta = 0.9 * delta + 0.1 * (-0.0125 + 0.2)
  t.close(second.loss, formula(delta, U + 2))


def test_evaluation_reads_the_state_and_keeps_it():
  state = {"count": jnp.asarray(10.0), "mean": jnp.asarray(0.3)}
  out = loss(batch(state=state).replace(train=False))
  t.close(out.loss, formula(0.3))
  assert out.state["count"] == 10.0 and out.state["mean"] == 0.3


@pytest.mark.parametrize("mode", MODES)
def test_policy_at_the_reference(mode):
  got = loss(batch(u=np.zeros(4), mode=mode), mode=mode).loss
  t.close(got, np.full(4, np.log(2)))


def test_a_constant_shift_of_all_rewards_cancels_in_batch_mode():
  got = loss(batch(u=U + 5, mode="batch"), mode="batch").loss
  t.close(got, formula(-0.0125))


def test_rows_without_a_label_count_for_delta_only():
  labels = LABELS * [1, 1, 0, 1]
  got = loss(batch(labels=labels, mode="batch"), mode="batch")
  t.close(got.loss, formula(-0.0125) * [1, 1, 0, 1])
  np.testing.assert_array_equal(got.weight, np.ones(4))


def test_no_gradient_through_delta():
  got = t.gradient("bco", batch(mode="batch"), beta=0.1, delta_mode="batch")
  slope = -LABELS * 0.1 * t.sigma(-LABELS * (0.1 * U + 0.0125)) / 4
  mask = np.asarray(batch().completion_mask)
  t.close(got, slope[:, None, None] * mask)
  t.check_gradient("bco", batch(mode="zero"), beta=0.1, delta_mode="zero")


def test_bounds_dpo_from_above():
  """softplus(-(a + b)) <= softplus(-a) + softplus(-b), pair by pair."""
  bound = loss(batch(mode="zero"), mode="zero").loss
  chosen, rejected = np.asarray(bound)[:2], np.asarray(bound)[2:]
  dpo = t.run("dpo", inputs.golden_pairs()).loss
  assert np.all(dpo <= chosen + rejected)
  t.close(chosen + rejected, [1.2887933201, 1.4628563081])  # bco_pair
