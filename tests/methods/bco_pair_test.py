"""BCO on pairs: two classifications without a shift."""

import math

import numpy as np

from tests.methods.pairs import (
  U_L,
  U_W,
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
  close(losses("bco_pair", beta=0.1), [1.2887933201, 1.4628563081])


def test_formula():
  want = softplus(-0.4 * U_W) + softplus(0.4 * U_L)
  close(losses("bco_pair", beta=0.4), want)


def test_policy_at_the_reference():
  close(losses("bco_pair", pair(0.0, 0.0)), 2 * math.log(2), 1e-15)


def test_an_upper_bound_of_dpo():
  u = np.array([-4.0, -1.0, 0.0, 2.0, 9.0, 30.0])
  x = pair(u, -0.5 * u + 1.0)
  gap = losses("bco_pair", x, beta=0.3) - losses("dpo", x, beta=0.3)
  assert gap.min() > 0


def test_gradients():
  got = slopes("bco_pair", golden("bco_pair"), beta=0.1)
  close(got[:, 0], -0.1 * sigma(-0.1 * U_W))
  close(got[:, 1], 0.1 * sigma(0.1 * U_L))
  check_slopes("bco_pair", golden("bco_pair"), beta=0.7)
