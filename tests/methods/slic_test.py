"""SLiC: a hinge on sums and an anchor on a target text."""

import jax.numpy as jnp
import numpy as np

from tests.methods import inputs
from tests.methods.pairs import (
  A_L,
  A_W,
  S_L,
  S_W,
  check_slopes,
  close,
  losses,
  slopes,
  sums,
)
from xpo_jax.types import Feedback


def with_target(present=(True, True)):
  """The golden pairs with targets of -7 and -4.5 nats at index 2."""
  x = inputs.from_sums(
    [[-12.0, -15.0, -7.0], [-20.5, -18.25, -4.5]],
    lengths=[[4, 6, 2], [8, 5, 3]],
    kind=Feedback.ORDER,
    feedback=[[1.0, 0.0, 0.0]] * 2,
  )
  here = np.ones((2, 3), bool)
  here[:, 2] = present
  mask = np.array(x.completion_mask) & here[..., None]
  return x.replace(present=jnp.asarray(here), completion_mask=jnp.asarray(mask))


def test_golden():
  close(losses("slic", nll_coef=0.5), [6.0, 13.5])


def test_formula():
  want = np.maximum(0, 5.0 - S_W + S_L) - 0.2 * S_W
  close(losses("slic", delta=5.0, nll_coef=0.2), want)
  mean = np.maximum(0, 0.7 - A_W + A_L) - 0.2 * A_W
  close(losses("slic", delta=0.7, nll_coef=0.2, length_norm=True), mean)


def test_target_at_index_two():
  hinge = np.maximum(0, 1.0 - S_W + S_L)
  got = losses("slic", with_target(), nll_coef=0.5)
  close(got, hinge + 0.5 * np.array([7.0, 4.5]))
  # Without one the chosen completion takes its place.
  got = losses("slic", with_target((True, False)), nll_coef=0.5)
  close(got, hinge + 0.5 * np.array([7.0, 20.5]))


def test_the_anchor_pulls_by_its_coefficient():
  got = slopes("slic", with_target(), nll_coef=0.3)
  close(got[:, 2], -0.3)
  close(got[:, 0], [0.0, -1.0])  # the first pair is past the hinge
  close(got[:, 1], [0.0, 1.0])


def test_nothing_to_learn_past_the_hinge():
  x = sums([-3.0, -4.0, -4.0], [-9.0, -6.0, -5.5], lengths=(1, 1))
  close(losses("slic", x, delta=2.0, nll_coef=0.0), [0.0, 0.0, 0.5])
  # At equality the subgradient is 0.
  close(
    slopes("slic", x, delta=2.0, nll_coef=0.0),
    [[0.0, 0.0], [0.0, 0.0], [-1.0, 1.0]],
  )


def test_gradients():
  check_slopes("slic", with_target(), delta=2.0)
  check_slopes("slic", with_target((False, True)), length_norm=True)
