"""f-DPO: the reward is f'(policy / reference)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods.pairs import (
  U_L,
  U_W,
  check_slopes,
  close,
  golden,
  losses,
  pair,
  slopes,
  softplus,
)
from xpo_jax.methods import registry

DIVERGENCES = ("reverse_kl", "forward_kl", "jsd", "alpha")
every_divergence = pytest.mark.parametrize("divergence", DIVERGENCES)
# f of D_f = E_ref f(v), v = policy / reference; alpha at a = .5.
F = {
  "reverse_kl": lambda v: v * jnp.log(v),
  "forward_kl": lambda v: -jnp.log(v),
  "jsd": lambda v: v * jnp.log(v) - (v + 1) * jnp.log((v + 1) / 2),
  "alpha": lambda v: (v**0.5 - 0.5 * v - 0.5) / (0.5 * (0.5 - 1)),
}
G = {
  "reverse_kl": lambda u: u,
  "forward_kl": lambda u: -np.exp(-u),
  "jsd": lambda u: math.log(2) - softplus(-u),
  "alpha": lambda u: (1 - np.exp(-0.5 * u)) / 0.5,
}


@pytest.mark.parametrize(
  "divergence, want",
  [
    ("reverse_kl", [0.5981388694, 0.7709570478]),
    ("forward_kl", [0.5825167135, 0.8042987781]),
    ("jsd", [0.6443966601, 0.7359864463]),
    ("alpha", [0.594349123, 0.7839182748]),
  ],
)
def test_golden(divergence, want):
  close(losses("f_dpo", divergence=divergence), want)


@every_divergence
def test_formula(divergence):
  g = G[divergence]
  want = softplus(-0.3 * (g(U_W) - g(U_L)))
  close(losses("f_dpo", divergence=divergence, beta=0.3), want)
  got = registry.get("f_dpo").loss(golden("f_dpo"), divergence=divergence)
  close(got.metrics["rewards/chosen"], 0.1 * g(U_W))
  close(got.metrics["rewards/rejected"], 0.1 * g(U_L))


@every_divergence
def test_rewards_are_slopes_of_a_convex_function(divergence):
  """beta (g(u_w) - g(u_l)) = beta (f'(e^u_w) - f'(e^u_l)), f(1) = 0."""
  f, u = F[divergence], np.linspace(-2.0, 2.0, 9)
  got = registry.get("f_dpo").loss(
    pair(u, 0.3), beta=1.0, divergence=divergence
  )
  slope = jax.vmap(jax.grad(f))
  want = slope(jnp.exp(u)) - slope(jnp.exp(jnp.array([0.3])))
  close(got.metrics["rewards/margin"], want, 1e-12)
  assert np.all(np.diff(slope(jnp.exp(u))) > 0)
  assert abs(float(f(jnp.array(1.0)))) < 1e-15


@every_divergence
def test_policy_at_the_reference(divergence):
  got = losses("f_dpo", pair(0.0, 0.0), divergence=divergence)
  close(got, math.log(2), 1e-15)


def test_limits():
  close(losses("f_dpo"), losses("dpo"), 1e-15)
  close(losses("f_dpo", divergence="alpha", alpha=1e-6), losses("dpo"), 1e-5)
  close(
    losses("f_dpo", divergence="alpha", alpha=1 - 1e-7),
    losses("f_dpo", divergence="forward_kl"),
    1e-6,
  )


def test_jsd_saturates_for_winners():
  x = pair([30.0, 60.0, 900.0], 0.0)
  close(losses("f_dpo", x, divergence="jsd", beta=1.0), math.log(1.5), 1e-12)


def test_exponents_are_clamped():
  x = pair([-1e4, 0.0], [0.0, -1e4])
  for divergence in ("forward_kl", "alpha"):
    keywords = dict(divergence=divergence, alpha=0.9)
    assert np.all(np.isfinite(losses("f_dpo", x, **keywords)))
    got = slopes("f_dpo", x, **keywords)
    assert got[0, 0] == 0 and got[1, 1] == 0


@every_divergence
def test_gradients(divergence):
  check_slopes("f_dpo", golden("f_dpo"), divergence=divergence, alpha=0.3)
