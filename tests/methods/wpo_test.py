"""WPO: DPO weighted by how on-policy the pair is."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from tests.methods.pairs import (
  H,
  check_slopes,
  close,
  golden,
  losses,
  sigma,
  slopes,
  softplus,
)
from xpo_jax.methods import registry

WPO = registry.get("wpo")
W_W, W_L = np.array([0.9, 0.7]), np.array([1.2, 0.8])


def weighted(w_chosen=W_W, w_rejected=W_L):
  """The golden pairs with log_collision such that w is as given."""
  x = golden("wpo")
  log_w = np.log(np.stack([w_chosen, w_rejected], -1))
  tilt = np.where(np.asarray(x.completion_mask), 1.0, 0.0)
  ramp = np.array([1.0, -1.0] + [0.0] * (tilt.shape[-1] - 2))  # mean 0
  return x.replace(
    log_collision=x.policy_logps - log_w[..., None] * tilt - 0.3 * ramp * tilt
  )


def test_golden():
  got = losses("wpo", weighted(), beta=0.1)
  close(got, [0.6459899789, 0.4317359468])
  metrics = WPO.loss(weighted()).metrics
  close(metrics["weights/chosen"], W_W)
  close(metrics["weights/rejected"], W_L)


def test_formula():
  want = W_W * W_L * softplus(-0.4 * H)
  close(losses("wpo", weighted(), beta=0.4), want)


def test_a_token_by_hand():
  """p = [.5, .3, .2] and a token of .3: ln .3 - ln(.25 + .09 + .04)."""
  log_w = math.log(0.3) - math.log(0.5**2 + 0.3**2 + 0.2**2)
  close(log_w, -0.2363887781)
  x = golden("wpo")
  full = jnp.ones_like(x.policy_logps)
  x = x.replace(
    policy_logps=math.log(0.3) * full,
    reference_logps=math.log(0.3) * full,
    log_collision=math.log(0.38) * full,
  )
  want = math.exp(2 * -0.2363887781) * math.log(2)
  close(losses("wpo", x), want, 1e-9)


def test_weight_one_for_uniform_and_for_sure_policies():
  x = golden("wpo")
  for logp in (-math.log(50.0), 0.0):  # ln sum p^2 = -ln V, or 0
    logps = jnp.full_like(x.policy_logps, logp)
    even = x.replace(policy_logps=logps, log_collision=logps)
    metrics = WPO.loss(even).metrics
    close(metrics["weights/chosen"], 1.0, 1e-14)
    close(metrics["weights/rejected"], 1.0, 1e-14)


def test_the_exponent_is_clamped():
  got = WPO.loss(weighted(np.exp([30.0, -30.0]), W_L)).metrics
  np.testing.assert_allclose(
    got["weights/chosen"], np.exp([20.0, -20.0]), rtol=1e-12
  )


def test_no_gradient_through_the_weights():
  x = weighted()
  want = -0.1 * W_W * W_L * sigma(-0.1 * H)
  close(slopes("wpo", x, beta=0.1), np.stack([want, -want], -1))
  fn = lambda c: jnp.sum(WPO.loss(x.replace(log_collision=c)).loss)
  assert not np.any(jax.grad(fn)(x.log_collision))
  even = weighted(np.exp([30.0, 25.0]), np.exp([22.0, 30.0]))  # w constant
  scaled = even.replace(weight=jnp.full(2, math.exp(-40.0)))
  check_slopes("wpo", scaled, beta=0.5)
