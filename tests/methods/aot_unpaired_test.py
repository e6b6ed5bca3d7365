"""AOT on two sets: sorted chosen against sorted rejected log-ratios."""

import math

import jax.numpy as jnp
import numpy as np

from tests.methods import inputs
from tests.methods.pairs import (
  check_slopes,
  close,
  golden,
  losses,
  pair,
  softplus,
)
from xpo_jax.methods import registry
from xpo_jax.methods.aot_unpaired import quantiles
from xpo_jax.types import Feedback

AOT = registry.get("aot_unpaired")


def singles(u, labels, slots=9):
  """Completions of these log-ratios, each good (+1) or bad (-1).

  Empty slots fill the batch up: one shape, and they must not matter.
  """
  empty = [0.0] * (slots - len(u))
  u, labels = np.array([*u, *empty]), np.array([*labels, *empty], float)
  reference = -6.0 - np.arange(slots)[:, None]
  x = inputs.from_sums(
    reference + u[:, None],
    reference=reference,
    lengths=[[3]] * slots,
    kind=Feedback.BINARY,
    feedback=labels[:, None],
  )
  return x.replace(weight=jnp.asarray(np.where(labels != 0, 1.0, 0.0)))


def run(u, labels, beta):
  """(loss, weight) of each completion."""
  out = AOT.loss(singles(u, labels), beta=beta)
  assert not np.any(out.weight[len(u) :]) and not np.any(out.loss[len(u) :])
  return np.asarray(out.loss)[: len(u)], np.asarray(out.weight)[: len(u)]


def test_golden():
  # u_w = [1, -1], u_l = [-1, .5]: 1 meets .5 and -1 meets -1.
  got = losses("aot_unpaired", beta=0.1)
  close(got, [0.668459648, 0.6931471806])


def test_formula_at_the_chosen_side():
  x = pair([3.0, -1.0, 0.5], [0.2, 2.0, -4.0])
  want = softplus(-0.3 * np.array([3.0 - 2.0, -1.0 + 4.0, 0.5 - 0.2]))
  close(AOT.loss(x, beta=0.3).loss, want)


def test_policy_at_the_reference():
  close(AOT.loss(pair([0.0, 0.0], 0.0)).loss, math.log(2), 1e-15)


def test_one_pair_is_dpo():
  x = pair([1.5], [-0.5])
  close(AOT.loss(x, beta=0.1).loss, losses("dpo", x), 1e-15)


def test_single_completions_are_the_pairs():
  loss, weight = run([1.0, -1.0, -1.0, 0.5], [1, 1, -1, -1], beta=0.1)
  close(loss, [0.668459648, 0.6931471806, 0.0, 0.0])
  close(weight, [1.0, 1.0, 0.0, 0.0])


def test_more_chosen_than_rejected():
  """Quantiles 1/4 and 3/4: places .25 and 1.75 among three chosen."""
  u, labels = [1.0, 0.5, -1.0, 0.0, 3.0], [1, -1, 1, -1, 1]
  low, high = -1.0 + 0.25 * 2.0, 1.0 + 0.75 * 2.0
  want = softplus(-0.4 * np.array([high - 0.5, low - 0.0]))
  loss, weight = run(u, labels, beta=0.4)
  close(loss, [0.0, want[0], 0.0, want[1], 0.0])
  close(weight, [0.0, 1.0, 0.0, 1.0, 0.0])
  out = AOT.loss(singles(u, labels), beta=0.4)
  close(inputs.total(out), want.mean())


def test_more_rejected_than_chosen():
  """One quantile, 1/2: place 1 among three, place 1/2 among two."""
  loss, _ = run([7.0, 1.0, 2.0, 5.0], [1, -1, -1, -1], beta=0.4)
  close(loss, [softplus(-0.4 * 5.0), 0, 0, 0])
  loss, _ = run([7.0, 1.0, 2.0], [1, -1, -1], beta=0.4)
  close(loss, [softplus(-0.4 * 5.5), 0, 0])


def test_places_among_the_larger_side():
  loss, _ = run([0.0, 1.0, 2.0, 10.0, 3.0], [1, 1, 1, 1, -1], beta=0.4)
  close(loss[4], softplus(-0.4 * (1.5 - 3.0)))
  u = [0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0]
  places = np.array([0.125, 0.375, 0.625, 0.875]) * 5 - 0.5  # .125 .. 3.875
  loss, _ = run(u, [1] * 5 + [-1] * 4, beta=0.4)
  close(loss[5:], softplus(-0.4 * places))


def test_quantiles_are_clamped_to_the_ends():
  values = jnp.array([4.0, 99.0, 1.0, 2.0])
  member = jnp.array([True, False, True, True])
  got = quantiles(values, member, jnp.array([-0.5, 0.0, 0.5, 2.0, 2.4]))
  close(got, [1.0, 1.0, 1.5, 4.0, 4.0])


def test_statistics_only_and_one_class():
  x = singles([1.0, -1.0, 99.0, -1.0, 0.5], [1, 1, 0, -1, -1])
  x = x.replace(weight=jnp.where(jnp.arange(9) < 5, 1.0, 0.0))  # 99 has label 0
  out = AOT.loss(x, beta=0.1)
  close(out.loss[:5], [0.668459648, 0.6931471806, 0.0, 0.0, 0.0])
  loss, weight = run([1.0, 2.0], [1, 1], beta=0.1)
  close(loss, 0.0)
  close(weight, 0.0)


def test_rewards_of_single_completions():
  x = singles([1.0, 3.0, -1.0, 0.5, 0.25], [1, 1, 1, -1, -1])
  got = AOT.loss(x, beta=0.1).metrics
  mean = lambda v: np.sum(np.asarray(v)[:5]) / 5  # as the step averages
  close(mean(got["rewards/chosen"]), 0.1 * 1.0)
  close(mean(got["rewards/rejected"]), 0.1 * 0.375)
  close(mean(got["rewards/margin"]), 0.1 * 0.625)


def test_gradients():
  check_slopes("aot_unpaired", golden("aot_unpaired"), beta=0.7)
  x = singles([1.0, 0.5, -1.0, 0.0, 3.0], [1, -1, 1, -1, 1])
  grad = inputs.token_gradient(AOT, x, beta=0.4)[:5, 0, 0]
  low, high = -0.4 / (1 + np.exp(0.4 * np.array([-0.5, 2.0])))
  # -.5 is 3/4 of -1 and 1/4 of 1; 2.5 is 1/4 of 1 and 3/4 of 3.
  want = [0.25 * low + 0.25 * high, -high, 0.75 * low, -low, 0.75 * high]
  close(grad, want)
