"""APO-zero: chosen up, rejected down."""

import jax.numpy as jnp
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
)
from xpo_jax.methods import registry
from xpo_jax.types import Feedback


def test_golden():
  close(losses("apo_zero"), [0.950041625, 1.037476584])


def test_formula():
  want = 1 - sigma(0.4 * U_W) + sigma(0.4 * U_L)
  close(losses("apo_zero", beta=0.4), want)


def test_policy_at_the_reference_and_bounds():
  close(losses("apo_zero", pair(0.0, 0.0)), 1.0, 1e-15)
  got = losses("apo_zero", pair([200.0, -200.0], [-200.0, 200.0]))
  close(got, [0.0, 2.0], 1e-8)
  assert 0 < got[0] and got[1] < 2


def test_both_halves_of_kto_without_reference_point():
  x = golden("apo_zero")
  kto = registry.get("kto")

  def half(k, label):
    cut = lambda v: v[:, k : k + 1]
    one = x.replace(
      policy_logps=cut(x.policy_logps),
      reference_logps=cut(x.reference_logps),
      completion_mask=cut(x.completion_mask),
      present=cut(x.present),
      ended=cut(x.ended),
      feedback=jnp.full((2, 1), label),
      feedback_kind=Feedback.BINARY,
    )
    return np.asarray(kto.loss(one, z0_mode="zero").loss)

  close(losses("apo_zero"), half(0, 1.0) + half(1, -1.0), 1e-15)


def test_gradients():
  bump = lambda z: sigma(z) * sigma(-z)
  got = slopes("apo_zero", golden("apo_zero"))
  close(got[:, 0], -0.1 * bump(0.1 * U_W))
  close(got[:, 1], 0.1 * bump(0.1 * U_L))
  assert np.abs(slopes("apo_zero", pair(-900.0, 900.0))).max() < 1e-30
  check_slopes("apo_zero", golden("apo_zero"), beta=0.7)
