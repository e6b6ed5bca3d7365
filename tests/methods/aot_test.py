"""AOT on pairs: sorted policy gaps against sorted reference gaps."""

import math

import jax.numpy as jnp
import numpy as np

from tests.methods import inputs
from tests.methods.pairs import (
  check_slopes,
  close,
  golden,
  losses,
  sigma,
  slopes,
  softplus,
)
from xpo_jax.methods import registry
from xpo_jax.types import Feedback

AOT = registry.get("aot")


def gaps(policy, reference):
  """Pairs with these S_w - S_l and R_w - R_l."""
  rows = lambda g: np.stack([np.asarray(g) - 20.0, np.full(len(g), -20.0)], -1)
  return inputs.from_sums(
    rows(policy),
    reference=rows(reference),
    lengths=[[4, 6]] * len(policy),
    kind=Feedback.ORDER,
    feedback=[[1.0, 0.0]] * len(policy),
  )


def test_golden():
  # Policy gaps [3, -2.25], reference gaps [1, -.75]: the order agrees.
  close(losses("aot", beta=0.1), [0.5981388694, 0.7709570478])


def test_golden_where_it_differs_from_dpo():
  x = gaps([1.0, 2.0], [0.5, -1.0])
  # [1, 2] against sorted [-1, .5], in the prompts' order.
  close(losses("aot", x, beta=0.1), [0.5981388694, 0.6209570478])
  close(losses("dpo", x, beta=0.1), [0.6684596480, 0.5543552445])


def test_formula_at_the_policy_pair():
  x = gaps([3.0, -1.0, 0.5], [0.2, 2.0, -4.0])
  want = softplus(-0.3 * np.array([3.0 - 2.0, -1.0 + 4.0, 0.5 - 0.2]))
  close(AOT.loss(x, beta=0.3).loss, want)


def test_one_pair_is_dpo():
  x = gaps([1.5], [-0.5])
  close(AOT.loss(x, beta=0.1).loss, losses("dpo", x), 1e-15)


def test_policy_at_the_reference():
  x = gaps([1.5, -2.0, 0.3], [1.5, -2.0, 0.3])
  close(AOT.loss(x).loss, math.log(2), 1e-15)


def test_never_above_dpo():
  """Sorting minimises a convex cost of the difference."""
  rng = np.random.default_rng(0)
  for _ in range(5):
    x = gaps(3 * rng.normal(size=2), 3 * rng.normal(size=2))
    sorted_cost = losses("aot", x, beta=0.8).mean()
    assert sorted_cost <= losses("dpo", x, beta=0.8).mean() + 1e-12


def test_empty_slots_are_not_sorted_in():
  x = gaps([1.0, -50.0, 2.0], [0.5, -70.0, -1.0])
  x = x.replace(weight=jnp.array([1.0, 0.0, 1.0]))
  out = AOT.loss(x, beta=0.1)
  close(out.loss, [0.5981388694, 0.0, 0.6209570478])
  close(out.weight, [1.0, 0.0, 1.0])


def test_gradients():
  x = gaps([1.0, 2.0], [0.5, -1.0])
  want = -0.1 * sigma(-0.1 * np.array([2.0, 1.5]))
  close(slopes("aot", x, beta=0.1), np.stack([want, -want], -1))
  check_slopes("aot", x, beta=0.7)
  check_slopes("aot", golden("aot"), beta=0.7)
