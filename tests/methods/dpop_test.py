"""DPOP: DPO with a penalty once the chosen log-ratio is negative."""

import math

import numpy as np

from tests.methods.pairs import (
  U_W,
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


def test_golden():
  close(losses("dpop"), [0.4374879505, 15.4500001951])
  close(losses("dpop", beta=0.1, penalty=5.0), [0.5981388694, 1.0700553357])


def test_formula():
  z = 0.2 * (H - 3.0 * np.maximum(0, -U_W))
  close(losses("dpop", beta=0.2, penalty=3.0), softplus(-z))


def test_dpo_while_the_chosen_side_is_not_below():
  x = pair([0.0, 0.3, 4.0], [-1.0, 2.0, 9.0])
  close(losses("dpop", x), losses("dpo", x, beta=0.3), 1e-14)
  close(losses("dpop", penalty=0.0), losses("dpo", beta=0.3), 1e-14)


def test_policy_at_the_reference():
  close(losses("dpop", pair(0.0, 0.0)), math.log(2), 1e-15)


def test_pushing_both_sides_down_is_seen():
  """DPO cannot tell (u - c, v - c) from (u, v); DPOP can."""
  push = np.array([0.0, 0.5, 1.0, 1.5, 2.0])
  x = pair(1.0 - push, 0.5 - push)
  close(losses("dpo", x, beta=0.3), losses("dpo", x, beta=0.3)[0])
  got = losses("dpop", x)
  close(got[:3], got[0])
  assert got[2] < got[3] < got[4]


def test_gradients():
  got = slopes("dpop", golden("dpop"))
  close(got[:, 0], [-0.1063031081, -15.2999970157])  # methods.md 16.3
  z = 0.3 * (H - 50.0 * np.array([0.0, 1.0]))
  close(got[:, 0], -0.3 * sigma(-z) * np.array([1.0, 51.0]))
  close(got[:, 1], 0.3 * sigma(-z))
  check_slopes("dpop", golden("dpop"), penalty=4.0)


def test_metrics():
  got = registry.get("dpop").loss(golden("dpop")).metrics
  close(got["logratio/lack"], [0.0, 1.0])
  close(got["logratio/below_reference"], [0.0, 1.0])
