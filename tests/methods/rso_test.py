"""RSO's three losses."""

import numpy as np
import pytest

from tests.methods.pairs import (
  S_L,
  S_W,
  H,
  check_slopes,
  close,
  golden,
  losses,
)
from xpo_jax.methods import registry


def test_golden():
  close(losses("rso"), [0.6443966601, 0.7313501408])
  close(losses("rso", loss="hinge_norm"), [0.9, 1.075])
  close(losses("rso", loss="hinge"), [0.85, 1.1125])


def test_formula():
  close(losses("rso", gamma=0.3), np.log1p(np.exp(-0.3 * H)))
  close(losses("rso", gamma=0.7, loss="hinge_norm"), [0.0, 1 + 0.7 * 1.5])


def test_sigmoid_norm_is_dpo():
  close(losses("rso", gamma=0.3), losses("dpo", beta=0.3), 1e-14)


def test_hinge_is_slic_times_gamma():
  for gamma in (0.05, 0.5):
    slic = losses("slic", delta=1 / gamma, nll_coef=0.0)
    close(losses("rso", gamma=gamma, loss="hinge"), gamma * slic, 1e-13)
    by_hand = np.maximum(0, 1 - gamma * (S_W - S_L))
    close(losses("rso", gamma=gamma, loss="hinge"), by_hand)


def test_only_hinge_needs_no_reference():
  rso = registry.get("rso")
  assert rso.needs({"loss": "hinge"}) == set()
  assert rso.needs({"loss": "hinge_norm"}) == {"reference_logps"}
  assert rso.needs({}) == {"reference_logps"}


@pytest.mark.parametrize("loss", ["sigmoid_norm", "hinge_norm", "hinge"])
def test_gradients(loss):
  check_slopes("rso", golden("rso", loss=loss), loss=loss, gamma=0.2)
