"""beta-DPO: statistics, filter and dynamic beta of methods.md 4.5."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods import inputs
from tests.methods.pairs import (
  H,
  check_slopes,
  close,
  golden,
  losses,
  pair,
  sigma,
  slopes,
  softplus,
)
from xpo_jax.methods import registry
from xpo_jax.methods.beta_dpo import kept

BETA_DPO = registry.get("beta_dpo")
LIVE = jnp.array([True, True])


def state(mean=0.5, std=2.0, batches=1):
  return {
    "mean": jnp.array(mean),
    "std": jnp.array(std),
    "batches": jnp.array(batches, jnp.int32),
  }


def batch(x=None, seed=0, **kwargs):
  x = golden("beta_dpo") if x is None else x
  return x.replace(state=state(**kwargs), noise=jax.random.key(seed))


def seed_that_keeps(index):
  """A seed whose Gumbel draw prefers that pair of the golden batch."""
  log_w = np.array([-0.2773749438, -0.4652236024])
  for seed in range(20):
    draw = jax.random.gumbel(jax.random.key(seed), (2,), jnp.float64)
    if np.argmax(log_w + np.asarray(draw)) == index:
      return seed
  raise AssertionError("no such seed")


def test_golden_statistics_and_beta():
  out = BETA_DPO.loss(batch(), keep=1.0)
  # mean .25 and deviation sqrt(2 (1.75)^2) of h = [2, -1.5]
  close(out.state["mean"], 0.9 * 0.5 + 0.1 * 0.25)
  close(out.state["mean"], 0.475)
  close(out.state["std"], 0.9 * 2 + 0.1 * 1.75 * math.sqrt(2))
  close(out.state["std"], 2.0474873734)
  assert out.state["batches"] == 2
  close(out.metrics["beta/batch"], 0.1 * (1 + 0.6 * (0.25 - 0.475)))
  close(out.metrics["beta/batch"], 0.0865)
  close(out.loss, [0.6103836495, 0.7601250889])
  close(out.weight, 1.0)


def test_golden_filter():
  log_w = -0.5 * ((H - 0.475) / 2.0474873734) ** 2
  close(log_w, [-0.2773749438, -0.4652236024])
  got = kept(jnp.asarray(log_w), jnp.zeros(2), LIVE, 0.5)
  np.testing.assert_array_equal(got, [True, False])
  got = kept(jnp.asarray(log_w), jnp.array([0.0, 0.2]), LIVE, 0.5)
  np.testing.assert_array_equal(got, [False, True])


def test_golden_loss_of_the_kept():
  out = BETA_DPO.loss(batch(seed=seed_that_keeps(0)), keep=0.5)
  close(out.metrics["beta/batch"], 0.1915)
  close(out.loss, [0.5198723183, 0.0])
  close(out.weight, [1.0, 0.0])
  out = BETA_DPO.loss(batch(seed=seed_that_keeps(1)), keep=0.5)
  close(out.metrics["beta/batch"], 1e-3)  # from -.0185
  close(out.loss, [0.0, 0.6938974618])
  close(inputs.total(out), 0.6938974618)


def test_beta_stays_positive():
  out = BETA_DPO.loss(batch(), keep=1.0, alpha=5.0)  # 1 - 5 * .225 < 0
  close(out.loss, [0.6921476806, 0.6938974618])


def test_dpo_without_shift_and_filter():
  got = BETA_DPO.loss(batch(), alpha=0.0, keep=1.0).loss
  close(got, losses("dpo"), 1e-15)
  first = BETA_DPO.loss(batch(batches=0), keep=1.0)
  close(first.loss, losses("dpo"), 1e-15)
  close(first.state["mean"], 0.25)
  close(first.state["std"], 1.75 * math.sqrt(2))


def test_one_pair_has_no_deviation():
  x = inputs.map_prompts(golden("beta_dpo"), lambda v: v[:1])
  out = BETA_DPO.loss(batch(x, batches=0))
  close(out.state["mean"], 2.0)
  close(out.state["std"], 0.0)
  close(out.weight, 1.0)  # at least one is kept
  close(out.loss, losses("dpo")[0])


def test_rewards_as_discrepancy_are_the_same_with_another_alpha():
  plain = BETA_DPO.loss(batch(), keep=0.5)
  scaled = batch(mean=0.05, std=0.2)
  reward = BETA_DPO.loss(scaled, keep=0.5, alpha=6.0, discrepancy="reward")
  close(reward.loss, plain.loss, 1e-14)
  close(reward.state["mean"], 0.1 * plain.state["mean"])


def test_policy_at_the_reference():
  out = BETA_DPO.loss(batch(pair([0.0, 0.0], 0.0), batches=0))
  close(out.loss, math.log(2) * np.asarray(out.weight), 1e-15)
  assert out.weight.sum() == 1  # floor(.8 * 2)
  close(out.state["std"], 0.0)


@pytest.mark.parametrize(
  "keep, n, count", [(0.29, 100, 29), (0.8, 5, 4), (0.1, 5, 1), (0.999, 4, 3)]
)
def test_how_many_are_kept(keep, n, count):
  live = np.arange(n + 3) < n  # and three empty slots
  got = kept(jnp.zeros(n + 3), jnp.zeros(n + 3), jnp.asarray(live), keep)
  np.testing.assert_array_equal(got, np.arange(n + 3) < count)


def test_draws_follow_the_weights():
  w = np.array([0.5, 0.3, 0.2])
  noise = jax.random.gumbel(jax.random.key(3), (4000, 3))
  keep_one = lambda g: kept(jnp.log(w), g, jnp.ones(3, bool), 0.34)
  share = np.mean(jax.vmap(keep_one)(noise), axis=0)
  np.testing.assert_allclose(share, w, atol=4 * 0.5 / math.sqrt(4000))


def test_outliers_are_left_out():
  """300 deviations away: whatever the draw, on either side of M0."""
  for outlier in (-300.0, 300.0):
    x = pair([0.3, outlier, -0.2, 0.1], 0.0)
    for seed in range(5):
      fixed = batch(x, seed, mean=0.0, std=1.0)
      out = BETA_DPO.loss(fixed, momentum=1.0, keep=0.75)
      close(out.weight, [1.0, 0.0, 1.0, 1.0])


def test_evaluation_is_dpo_and_moves_nothing():
  x = batch().replace(train=False)
  out = BETA_DPO.loss(x)
  close(out.loss, losses("dpo"), 1e-15)
  close(out.weight, 1.0)
  assert out.state is x.state or jax.tree.all(
    jax.tree.map(lambda a, b: bool(a == b), out.state, x.state)
  )


def test_empty_slots_stay_out_of_the_statistics():
  x = batch(pair([2.0, -1.5, 900.0], 0.0)).replace(
    weight=jnp.array([1.0, 1.0, 0.0])
  )
  out = BETA_DPO.loss(x, keep=1.0)
  close(out.state["std"], 2.0474873734)
  close(out.loss, [0.6103836495, 0.7601250889, 0.0])
  close(out.weight, [1.0, 1.0, 0.0])


def test_no_gradient_through_beta_and_selection():
  got = slopes("beta_dpo", batch(), keep=1.0)
  want = -0.0865 * sigma(-0.0865 * H)
  close(got, np.stack([want, -want], -1))
  got = slopes("beta_dpo", batch(seed=seed_that_keeps(0)), keep=0.5)
  want = -0.1915 * sigma(-0.1915 * 2.0)
  close(got, [[want, -want], [0.0, 0.0]])
  check_slopes("beta_dpo", batch(), alpha=0.0, keep=1.0, beta=0.4)


def test_formula_of_a_second_batch():
  out = BETA_DPO.loss(batch(), keep=1.0, momentum=0.5, beta=0.2, alpha=0.3)
  scale = 0.2 * (1 + 0.3 * (0.25 - (0.5 * 0.5 + 0.5 * 0.25)))
  close(out.loss, softplus(-scale * H))
