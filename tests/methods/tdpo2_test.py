"""TDPO2: the KL gap weighted, no gradient through the chosen side's KL."""

import math

from tests.methods.pairs import (
  U_W,
  H,
  check_slopes,
  close,
  golden,
  losses,
  sigma,
  softplus,
)
from tests.methods.tdpo1_test import K_L, K_W, kl_slopes, with_kl
from xpo_jax.methods import registry


def test_golden():
  x = with_kl(golden("tdpo2"))
  close(losses("tdpo2", x), [0.6071917248, 0.7602581947])


def test_formula():
  x = with_kl(golden("tdpo2"))
  z = 0.4 * H - 0.4 * 1.5 * (K_L - K_W)
  close(losses("tdpo2", x, beta=0.4, alpha=1.5), softplus(-z))


def test_policy_at_the_reference():
  x = golden("tdpo2")
  x = with_kl(x.replace(policy_logps=x.reference_logps), 0 * K_W, 0 * K_L)
  close(losses("tdpo2", x), math.log(2), 1e-15)


def test_identities():
  x = with_kl(golden("tdpo2"))
  close(losses("tdpo2", x, alpha=0.0), losses("dpo"), 1e-15)
  close(losses("tdpo2", x, alpha=1.0), losses("tdpo1", x), 1e-15)
  ours, _ = kl_slopes("tdpo2", x, alpha=1.0)
  theirs, _ = kl_slopes("tdpo1", x)
  close(ours[:, 1], theirs[:, 1], 1e-15)
  assert abs(ours[:, 0] - theirs[:, 0]).min() > 0.04  # not its gradient


def test_gradients():
  x = with_kl(golden("tdpo2"))
  check_slopes("tdpo2", x, beta=0.5, alpha=0.7)
  z = 0.1 * H - 0.5 * 0.1 * (K_L - K_W)
  kl, _ = kl_slopes("tdpo2", x)
  close(kl[:, 0], 0.0)
  close(kl[:, 1], 0.5 * 0.1 * sigma(-z))


def test_metrics():
  got = registry.get("tdpo2").loss(with_kl(golden("tdpo2")), beta=0.5).metrics
  close(got["kl/rejected"] - got["kl/chosen"], K_L - K_W)
  close(got["rewards/chosen"], 0.5 * (U_W + K_W))
