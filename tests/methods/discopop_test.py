"""DiscoPOP: a gated blend of the logistic and the exponential loss."""

import math

import numpy as np

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


def test_golden():
  close(losses("discopop", beta=0.1), [0.8147631411, 0.7894947401])
  close(losses("discopop"), [0.8737921187, 0.7945667891])


def test_formula():
  z = 0.4 * H
  g = sigma(z / 0.3)
  want = (1 - g) * softplus(-z) + g * np.exp(-z)
  close(losses("discopop", beta=0.4, tau=0.3), want)


def test_policy_at_the_reference():
  got = losses("discopop", pair(0.0, 0.0))
  close(got, 0.5 * math.log(2) + 0.5, 1e-15)


def test_limits_of_the_width():
  z = np.array([-3.0, -0.2, 0.2, 3.0])
  x = pair(z, 0.0)
  wide = losses("discopop", x, beta=1.0, tau=1e9)
  close(wide, 0.5 * softplus(-z) + 0.5 * np.exp(-z), 1e-7)
  narrow = losses("discopop", x, beta=1.0, tau=1e-4)
  close(narrow, np.where(z < 0, softplus(-z), np.exp(-z)), 1e-12)


def test_it_is_not_convex():
  """dl/dz > 0 between -.1186 and .0720 at tau = .05."""
  z = np.array([-0.1196, -0.1176, 0.0, 0.0710, 0.0730])
  got = slopes("discopop", pair(z, 0.0), beta=1.0)[:, 0]
  np.testing.assert_array_equal(np.sign(got), [-1, 1, 1, 1, -1])


def test_the_slope_at_the_start():
  """-3/4 + (1 - log 2) / (4 tau): the wrong way below tau = .1023."""
  for tau in (0.05, 0.102, 0.103, 1.0):
    got = slopes("discopop", pair(0.0, 0.0), beta=1.0, tau=tau)[0, 0]
    close(got, -0.75 + (1 - math.log(2)) / (4 * tau))
    assert (got > 0) == (tau < 0.1023)


def test_the_exponent_is_clamped():
  x = pair([-1e4, -200.0], 0.0)
  got = losses("discopop", x, beta=1.0, tau=1e12)
  close(got / (0.5 * math.exp(80)), 1.0, 1e-6)


def test_gradients():
  check_slopes("discopop", golden("discopop"))
  check_slopes("discopop", golden("discopop"), beta=0.4, tau=0.7)
