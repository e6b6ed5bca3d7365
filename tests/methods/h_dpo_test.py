"""H-DPO: the entropy's own weight."""

from tests.methods.pairs import (
  R_L,
  R_W,
  S_L,
  S_W,
  check_slopes,
  close,
  golden,
  losses,
  sigma,
  slopes,
  softplus,
)
from xpo_jax.methods import registry


def test_golden():
  close(losses("h_dpo", alpha=0.9), [0.6117553389, 0.7589278369])


def test_formula():
  z = 0.7 * 0.3 * (S_W - S_L) - 0.3 * (R_W - R_L)
  close(losses("h_dpo", beta=0.3, alpha=0.7), softplus(-z))
  got = registry.get("h_dpo").loss(golden("h_dpo"), beta=0.3, alpha=0.7)
  close(got.metrics["rewards/margin"], z)


def test_dpo_at_one():
  close(losses("h_dpo", alpha=1.0), losses("dpo"), 1e-14)


def test_gradients():
  z = 0.9 * 0.1 * (S_W - S_L) - 0.1 * (R_W - R_L)
  got = slopes("h_dpo", golden("h_dpo"), alpha=0.9)
  close(got[:, 0], -0.09 * sigma(-z))
  close(got[:, 1], 0.09 * sigma(-z))
  check_slopes("h_dpo", golden("h_dpo"), beta=0.4)
