"""TDPO1: DPO with the gap of full-vocabulary KLs, gradient through both."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods import inputs
from tests.methods.pairs import (
  U_L,
  U_W,
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

K_W, K_L = np.array([0.3, 0.6]), np.array([0.7, 0.2])


def with_kl(x, k_w=K_W, k_l=K_L):
  """Spreads K over each completion's tokens."""
  mask = np.asarray(x.completion_mask)
  share = mask / mask.sum(-1, keepdims=True)
  total = np.stack([k_w, k_l], -1)
  return x.replace(token_kl=jnp.asarray(total[..., None] * share))


def kl_slopes(name, x, **keywords):
  """[B, 2]: gradient of sum(loss) in K, and the same by differences."""
  method = registry.get(name)
  fn = lambda kl: jnp.sum(method.loss(x.replace(token_kl=kl), **keywords).loss)
  grad = np.asarray(jax.grad(fn)(x.token_kl))
  mask = np.asarray(x.completion_mask)
  np.testing.assert_allclose(
    grad, np.where(mask, grad[..., :1], 0.0), atol=1e-12
  )
  return grad[..., 0], fn


def test_golden():
  x = with_kl(golden("tdpo1"))
  close(losses("tdpo1", x), [0.616343773, 0.7496589186])


def test_formula():
  x = with_kl(golden("tdpo1"))
  z = 0.4 * H - 0.4 * (K_L - K_W)
  close(losses("tdpo1", x, beta=0.4), softplus(-z))


def test_policy_at_the_reference():
  x = golden("tdpo1")
  x = with_kl(x.replace(policy_logps=x.reference_logps), 0 * K_W, 0 * K_L)
  close(losses("tdpo1", x), math.log(2), 1e-15)


def test_a_forward_kl_by_hand():
  """p_ref = [.7, .3], p = [.6, .4]: .7 ln(.7/.6) + .3 ln(.3/.4)."""
  kl = 0.7 * math.log(0.7 / 0.6) + 0.3 * math.log(0.3 / 0.4)
  assert kl == pytest.approx(0.0216008541, abs=1e-10)
  x = inputs.from_sums(
    [[math.log(0.6), math.log(0.4)]],
    reference=[[math.log(0.7), math.log(0.3)]],
    lengths=[[1, 1]],
    kind=golden("tdpo1").feedback_kind,
    feedback=[[1.0, 0.0]],
  )
  x = with_kl(x, np.array([kl]), np.array([0.0]))
  h = math.log(0.6 / 0.7) - math.log(0.4 / 0.3)
  close(losses("tdpo1", x, beta=2.0), softplus(-2.0 * (h + kl)))


def test_gradients():
  x = with_kl(golden("tdpo1"))
  z = 0.1 * H - 0.1 * (K_L - K_W)
  got = slopes("tdpo1", x)
  close(got[:, 0], -0.1 * sigma(-z))
  close(got[:, 1], 0.1 * sigma(-z))
  check_slopes("tdpo1", x, beta=0.5)
  kl, fn = kl_slopes("tdpo1", x)
  close(kl[:, 0], -0.1 * sigma(-z))  # descent raises the chosen side's KL
  close(kl[:, 1], 0.1 * sigma(-z))
  tilt = jnp.zeros_like(x.token_kl).at[0, 0, 0].set(1e-6)
  close(kl[0, 0], (fn(x.token_kl + tilt) - fn(x.token_kl - tilt)) / 2e-6, 1e-8)


def test_metrics():
  got = registry.get("tdpo1").loss(with_kl(golden("tdpo1")), beta=0.5).metrics
  close(got["kl/chosen"], K_W)
  close(got["kl/rejected"], K_L)
  close(got["rewards/chosen"], 0.5 * (U_W + K_W))
  close(got["rewards/rejected"], 0.5 * (U_L + K_L))
