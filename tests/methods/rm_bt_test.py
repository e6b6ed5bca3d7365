"""The Bradley-Terry reward model: soft labels, margins, centering."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods import inputs
from xpo_jax.methods import registry
from xpo_jax.types import Feedback

RM = registry.get("rm_bt")


def softplus(z):
  return math.log1p(math.exp(z))


def rewards(chosen, rejected, kind=Feedback.ORDER, feedback=(1.0, 0.0)):
  x = inputs.from_sums(
    [[0.0, 0.0]], lengths=[[2, 3]], kind=kind, feedback=[feedback]
  )
  return x.replace(
    policy_logps=None, scores=jnp.asarray([[chosen, rejected]], float)
  )


def loss(*args, centering=0.0, **keywords):
  out = RM.loss(rewards(*args, **keywords), centering=centering)
  assert out.weight == 1.0
  return float(out.loss[0])


def soft(p):
  return dict(kind=Feedback.PROBABILITY, feedback=(p, 1.0 - p))


def margin(m):
  return dict(kind=Feedback.MARGIN, feedback=(m, 0.0))


def test_golden():
  assert loss(1.0, 0.2, **soft(0.7)) == pytest.approx(0.6111006659, abs=1e-10)
  added = loss(1.2, -0.4, centering=0.01) - loss(1.2, -0.4)
  assert added == pytest.approx(0.01 * (1.2 - 0.4) ** 2, abs=1e-14)
  assert added == pytest.approx(0.0064, abs=1e-14)


def test_order_margin_and_probability_by_hand():
  assert loss(1.0, 0.2) == pytest.approx(softplus(-0.8))
  assert loss(0.2, 1.0) == pytest.approx(softplus(0.8))
  assert loss(1.0, 0.2, **margin(2.0)) == pytest.approx(softplus(-(0.8 - 2)))
  assert loss(1.0, 0.2, **soft(0.7)) == pytest.approx(
    0.7 * softplus(-0.8) + 0.3 * softplus(0.8)
  )


def test_identities():
  assert loss(3.3, 3.3) == pytest.approx(math.log(2), abs=1e-15)
  assert loss(1.0, 0.2) == pytest.approx(loss(101.0, 100.2))
  assert loss(1.0, 0.2, **soft(0.7)) == pytest.approx(
    loss(0.2, 1.0, **soft(0.3))
  )
  assert loss(1.0, 0.2, **soft(1.0)) == pytest.approx(loss(1.0, 0.2))
  # At gap g the loss with margin m is that without at gap g - m.
  assert loss(1.5, 0.0, **margin(1.2)) == pytest.approx(loss(0.3, 0.0))
  # Centering sees a constant that the gap does not.
  shift = loss(101.0, 100.2, centering=0.01) - loss(1.0, 0.2, centering=0.01)
  assert shift == pytest.approx(0.01 * (201.2**2 - 1.2**2))


def gradient(x, **keywords):
  fn = lambda scores: jnp.sum(
    RM.loss(x.replace(scores=scores), **keywords).loss
  )
  return fn, np.asarray(jax.grad(fn)(x.scores))


def test_gradient_is_sigma_of_the_gap_minus_p():
  sigma = 1 / (1 + math.exp(-0.8))
  for kind, p in ((dict(), 1.0), (soft(0.7), 0.7)):
    _, grad = gradient(rewards(1.0, 0.2, **kind))
    np.testing.assert_allclose(grad, [[sigma - p, p - sigma]], rtol=1e-12)


@pytest.mark.parametrize("kind", [dict(), soft(0.7), margin(0.4)])
def test_gradient_agrees_with_differences(kind):
  x = rewards(1.2, -0.4, **kind)
  fn, grad = gradient(x, centering=0.3)
  np.testing.assert_allclose(
    grad, inputs.numeric_gradient(fn, x.scores), rtol=1e-7
  )


def test_metrics():
  x = rewards(1.2, -0.4)
  got = {k: float(v[0]) for k, v in RM.loss(x).metrics.items()}
  assert got == pytest.approx(
    {
      "rewards/chosen": 1.2,
      "rewards/rejected": -0.4,
      "rewards/margin": 1.6,
      "rewards/accuracy": 1.0,
    }
  )
  tie = RM.loss(rewards(1.0, 1.0)).metrics["rewards/accuracy"]
  assert tie == 0.0
