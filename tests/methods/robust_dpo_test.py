"""Robust DPO: unbiased under label flips."""

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
  sigma,
  slopes,
  softplus,
)


def test_golden():
  close(losses("robust_dpo"), [0.5731388694, 0.7897070478])


def test_formula():
  z, e = 0.4 * H, 0.3
  want = ((1 - e) * softplus(-z) - e * softplus(z)) / (1 - 2 * e)
  close(losses("robust_dpo", beta=0.4, label_smoothing=e), want)


def test_dpo_without_flips():
  close(losses("robust_dpo", label_smoothing=0.0), losses("dpo"), 1e-15)


def test_policy_at_the_reference():
  close(losses("robust_dpo", pair(0.0, 0.0)), math.log(2), 1e-15)


@pytest.mark.parametrize("e", [0.05, 0.2, 0.45])
def test_the_mean_over_flips_is_dpo(e):
  h = np.array([-3.0, 0.2, 5.0])
  right = losses("robust_dpo", pair(h, 0.0), beta=0.7, label_smoothing=e)
  flipped = losses("robust_dpo", pair(0.0, h), beta=0.7, label_smoothing=e)
  close((1 - e) * right + e * flipped, softplus(-0.7 * h), 1e-12)


def test_unbounded_below():
  e, h = 0.1, 4000.0
  got = losses("robust_dpo", pair(h, 0.0), label_smoothing=e)
  close(got, -e * 0.1 * h / (1 - 2 * e), 1e-9)


def test_gradients():
  z, e = 0.1 * H, 0.1
  want = -0.1 * ((1 - e) * sigma(-z) + e * sigma(z)) / (1 - 2 * e)
  got = slopes("robust_dpo", golden("robust_dpo"))
  close(got[:, 0], want)
  close(got[:, 1], -want)
  pushed = slopes("robust_dpo", pair([-90.0, 0.0, 90.0], 0.0))
  assert np.all(pushed[:, 0] < 0)  # h is always pushed up
  check_slopes("robust_dpo", golden("robust_dpo"), label_smoothing=0.4)
