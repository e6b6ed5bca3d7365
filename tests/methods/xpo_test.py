"""XPO: online DPO with optimism."""

import numpy as np
import pytest

from tests.methods.pairs import (
  S_L,
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
from xpo_jax.types import Feedback


def judged(u, v, p):
  return pair(u, v, kind=Feedback.PROBABILITY, p=p)


def test_golden():
  close(losses("xpo"), [0.5979888694, 0.7707745478])


def test_formula():
  close(losses("xpo", beta=0.4, alpha=0.02), softplus(-0.4 * H) + 0.02 * S_L)


def test_online_dpo_without_exploration():
  close(losses("xpo", alpha=0.0), losses("dpo"), 1e-15)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_the_reference_sample_is_index_one_whoever_wins(p):
  u, v = np.array([0.7, -2.0]), np.array([-1.0, 0.4])
  z = 0.1 * (u - v)
  want = p * softplus(-z) + (1 - p) * softplus(z) + 0.01 * (v - 15.0)
  close(losses("xpo", judged(u, v, p), alpha=0.01), want)


def test_exploration_pushes_reference_samples_down():
  for p in (0.0, 1.0):
    x = judged(0.5, -0.3, p)
    gain = slopes("xpo", x, alpha=0.25) - slopes("xpo", x, alpha=0.0)
    close(gain, [[0.0, 0.25]], 1e-15)


def test_gradients():
  want = 0.1 * sigma(-0.1 * H)
  close(slopes("xpo", golden("xpo")), np.stack([-want, want + 1e-5], -1))
  check_slopes("xpo", judged([0.5, -2.0], 0.3, 0.35), alpha=0.1)


def test_metrics_follow_the_winner():
  got = registry.get("xpo").loss(judged([2.0, 2.0], 1.0, [0.2, 0.9])).metrics
  close(got["rewards/chosen"], [0.1, 0.2])
  close(got["rewards/accuracy"], [0.0, 1.0])
