"""IPO: a square around 1 / (2 tau)."""

import numpy as np
import pytest

from tests.methods.pairs import (
  A_L,
  A_W,
  N_L,
  N_W,
  U_L,
  U_W,
  H,
  check_slopes,
  close,
  golden,
  losses,
  pair,
  slopes,
)
from xpo_jax.types import Feedback


def test_golden():
  close(losses("ipo"), [9.0, 42.25])
  close(losses("ipo", length_norm=True), [21.0069444444, 27.300625])


def test_formula():
  close(losses("ipo", tau=0.4), (H - 1 / 0.8) ** 2)
  per_token = U_W / N_W - U_L / N_L
  close(losses("ipo", tau=0.7, length_norm=True), (per_token - 1 / 1.4) ** 2)


def test_policy_at_the_reference():
  close(losses("ipo", pair(0.0, 0.0)), 1 / (4 * 0.1**2))
  close(losses("ipo", pair(0.0, 0.0)), 25.0)


def test_least_at_a_finite_gap_for_sure_preferences():
  tau = 0.25
  best = 1 / (2 * tau)
  close(losses("ipo", pair([best, 0.3], [0.0, 0.3 - best]), tau=tau), 0.0)
  x = pair([best + 0.1, best, best - 0.1], 0.0)
  got = slopes("ipo", x, tau=tau)
  close(got[:, 0], [0.2, 0.0, -0.2])
  close(got[:, 1], [-0.2, 0.0, 0.2])


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_soft_labels(p):
  tau = 0.2
  soft = lambda h: pair(h, 0.0, kind=Feedback.PROBABILITY, p=p)
  for h in (-2.0, 0.7):
    want = p * (h - 2.5) ** 2 + (1 - p) * (h + 2.5) ** 2
    close(losses("ipo", soft(h), tau=tau), want)
  best = (2 * p - 1) / (2 * tau)
  close(slopes("ipo", soft(best), tau=tau), 0.0)
  around = losses("ipo", soft([best - 0.1, best, best + 0.1]), tau=tau)
  close(around - around[1], [0.01, 0.0, 0.01])


def test_population_form_differs_by_a_constant():
  """Both orders regressed on I / tau: methods.md 4.6."""
  tau, h = 0.3, np.array([-1.0, 0.4, 3.0])
  both = 0.5 * ((h - 1 / tau) ** 2 + h**2)
  close(both - losses("ipo", pair(h, 0.0), tau=tau), 1 / (4 * tau**2))


def test_gradients():
  close(slopes("ipo", golden("ipo"))[:, 0], [-6.0, -13.0])  # methods.md 16.3
  check_slopes("ipo", golden("ipo"), tau=0.4)
  check_slopes("ipo", golden("ipo"), tau=0.4, length_norm=True)
  x = pair([1.0, -2.0], 0.5, kind=Feedback.PROBABILITY, p=[0.8, 0.1])
  check_slopes("ipo", x)


def test_golden_batch_is_the_one_of_the_specification():
  close(A_W, [-3.0, -2.5625])
  close(A_L, [-2.5, -3.65])
  close(U_W - U_L, H)
