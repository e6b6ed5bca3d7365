"""SimPO: average log-probs, a target margin, no reference."""

import math

import numpy as np

from tests.methods.pairs import (
  A_L,
  A_W,
  N_L,
  N_W,
  check_slopes,
  close,
  golden,
  losses,
  sigma,
  slopes,
  softplus,
  sums,
)
from xpo_jax.methods import registry


def test_golden():
  close(losses("simpo"), [2.126928011, 0.2691251884])  # beta 2, gamma 1


def test_formula():
  z = 3.0 * (A_W - A_L) - 3.0 * 0.2
  e = 0.15
  want = (1 - e) * softplus(-z) + e * softplus(z) - 0.4 * A_W
  got = losses(
    "simpo", beta=3.0, gamma_beta_ratio=0.2, label_smoothing=e, nll_coef=0.4
  )
  close(got, want)


def test_equal_averages():
  x = sums([-8.0, -2.0], [-12.0, -3.0])  # lengths 4 and 6
  close(losses("simpo", x, gamma_beta_ratio=0.0), math.log(2), 1e-15)


def test_single_tokens_without_a_margin_are_cpo_without_nll():
  x = sums([-1.0, -2.5], [-3.0, -0.5], lengths=(1, 1))
  close(
    losses("simpo", x, beta=0.7, gamma_beta_ratio=0.0),
    losses("cpo", x, beta=0.7, nll_coef=0.0),
    1e-15,
  )


def test_only_averages_count():
  short = sums(-4.0, -9.0, lengths=(2, 3))
  long = sums(-12.0, -27.0, lengths=(6, 9))
  close(losses("simpo", short), losses("simpo", long), 1e-14)


def test_gradients():
  got = slopes("simpo", golden("simpo"))
  close(got[:, 0], [-0.4403985390, -0.0589881001])  # methods.md 16.3
  z = 2.0 * (A_W - A_L) - 1.0
  close(got[:, 0], -2.0 / N_W * sigma(-z))
  close(got[:, 1], 2.0 / N_L * sigma(-z))
  check_slopes("simpo", golden("simpo"), label_smoothing=0.2, nll_coef=0.5)


def test_rewards_are_scaled_averages():
  got = registry.get("simpo").loss(golden("simpo"), beta=1.5).metrics
  close(got["rewards/chosen"], 1.5 * A_W)
  close(got["rewards/accuracy"], np.array([0.0, 1.0]))
