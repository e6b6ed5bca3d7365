"""APO-down: both down, the rejected one more."""

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
)


def test_golden():
  close(losses("apo_down"), [0.9751451902, 1.0124506579])


def test_formula():
  want = sigma(0.4 * U_W) + 1 - sigma(0.4 * H)
  close(losses("apo_down", beta=0.4), want)


def test_policy_at_the_reference_and_bounds():
  close(losses("apo_down", pair(0.0, 0.0)), 1.0, 1e-15)
  got = losses("apo_down", pair([-200.0, 200.0], [-400.0, 400.0]))
  close(got, [0.0, 2.0], 1e-8)
  assert 0 < got[0] and got[1] < 2


def test_gradients():
  bump = lambda z: sigma(z) * sigma(-z)
  got = slopes("apo_down", golden("apo_down"))
  close(got[:, 0], 0.1 * bump(0.1 * U_W) - 0.1 * bump(0.1 * H))
  close(got[:, 1], 0.1 * bump(0.1 * H))
  assert np.abs(slopes("apo_down", pair(-900.0, 900.0))).max() < 1e-30
  check_slopes("apo_down", golden("apo_down"), beta=0.7)
