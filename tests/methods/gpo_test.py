"""GPO: one family of convex (and one other) functions of z = beta h."""

import math

import numpy as np
import pytest

from tests.methods.pairs import (
  H,
  check_slopes,
  close,
  golden,
  losses,
  pair,
  slopes,
  softplus,
)

Z = 0.1 * H
BY_HAND = {
  "logistic": lambda z: softplus(-z),
  "exponential": lambda z: np.exp(-z),
  "hinge": lambda z: np.maximum(0, 1 - z),
  "squared": lambda z: (z - 1) ** 2,
  "truncated_quadratic": lambda z: np.maximum(0, 1 - z) ** 2,
  "savage": lambda z: 1 / (1 + np.exp(z)) ** 2,
}
# f(0), f'(0), f''(0)
TAYLOR = {
  "logistic": (math.log(2), -1 / 2, 1 / 4),
  "exponential": (1, -1, 1),
  "hinge": (1, -1, 0),
  "squared": (1, -2, 2),
  "truncated_quadratic": (1, -2, 2),
  "savage": (1 / 4, -1 / 4, 1 / 8),
}
every_f = pytest.mark.parametrize("f", BY_HAND)


@pytest.mark.parametrize(
  "f, want",
  [
    ("logistic", [0.5981388694, 0.7709570478]),
    ("exponential", [0.8187307531, 1.1618342427]),
    ("hinge", [0.8, 1.15]),
    ("squared", [0.64, 1.3225]),
    ("truncated_quadratic", [0.64, 1.3225]),
    ("savage", [0.20264943, 0.2888308387]),
  ],
)
def test_golden(f, want):
  close(losses("gpo", f=f), want)


@every_f
def test_formula_and_descent(f):
  h = np.array([-30.0, -4.0, -1.0, 0.0, 1.0, 1.9, 7.0, 25.0])
  got = losses("gpo", pair(h, 0.0), beta=0.5, f=f)
  np.testing.assert_allclose(got, BY_HAND[f](0.5 * h), rtol=1e-12, atol=1e-12)
  below = got[0.5 * h < 1]
  assert np.all(np.diff(below) < 0)


@every_f
def test_expansion_at_small_beta(f):
  value, slope, bend = TAYLOR[f]
  beta = 1e-3
  want = value + slope * beta * H + bend * (beta * H) ** 2 / 2
  close(losses("gpo", golden("gpo"), beta=beta, f=f), want, 1e-8)
  at_zero = slopes("gpo", pair(0.0, 0.0), f=f, beta=beta)[0, 0]
  close(at_zero, slope * beta, 1e-12)


def test_identities():
  close(losses("gpo"), losses("dpo"), 1e-14)
  tau = 0.15
  close(
    losses("gpo", beta=2 * tau, f="squared"),
    4 * tau**2 * losses("ipo", tau=tau),
    1e-12,
  )
  close(
    losses("gpo", beta=0.05, f="hinge"), losses("rso", loss="hinge_norm"), 1e-14
  )


def test_the_exponent_is_clamped():
  x = pair([-1e4, -900.0], 0.0)
  close(losses("gpo", x, f="exponential") / math.exp(80), 1.0, 1e-12)
  close(slopes("gpo", x, f="exponential"), 0.0)


@every_f
def test_gradients(f):
  check_slopes("gpo", golden("gpo"), f=f, beta=0.3)
