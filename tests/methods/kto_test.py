"""KTO: values against a reference point z0, itself a frozen statistic."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods import inputs
from xpo_jax.errors import XpoError
from xpo_jax.methods import registry
from xpo_jax.types import Feedback

KTO = registry.get("kto")
U = np.array([1.0, -1.0, -1.0, 0.5])  # u_w, u_l of methods.md 16.1
LABELS = np.array([1.0, 1.0, -1.0, -1.0])
PARTNERS = (0.5, 0.1, 0.4, 0.2)  # mismatched log-ratios of mean .3


def sigma(z):
  return 1 / (1 + np.exp(-z))


def batch(u=U, partners=PARTNERS, labels=LABELS):
  """Log-ratios of the examples and of the mismatched completions."""
  reference = np.array(
    [[-13.0, -9.0], [-19.5, -8.0], [-14.0, -7], [-18.75, -6]]
  )
  return inputs.from_sums(
    reference + np.stack([u, np.broadcast_to(partners, 4)], -1),
    reference=reference,
    lengths=[[4, 3], [8, 2], [6, 5], [5, 7]],
    kind=Feedback.BINARY,
    feedback=np.stack([labels, np.zeros(4)], -1),
  )


def single(x):
  """Without the mismatched completions: K = 1."""
  return inputs.map_prompts(x, lambda v: v if v.ndim == 1 else v[:, :1])


def loss(x, **keywords):
  out = KTO.loss(x, **keywords)
  np.testing.assert_array_equal(out.weight, np.ones(4))
  return np.asarray(out.loss)


def formula(z0, beta=0.1, desirable=1.0, undesirable=1.0):
  return np.where(
    LABELS > 0,
    desirable * (1 - sigma(beta * (U - z0))),
    undesirable * (1 - sigma(beta * (z0 - U))),
  )


def test_golden():
  want = [0.4825071423, 0.5324543064, 0.4675456936, 0.5049998333]
  np.testing.assert_allclose(loss(batch()), want, atol=1e-10)
  want = [0.4750208125, 0.5249791875, 0.4750208125, 0.5124973965]
  zero = loss(single(batch()), z0_mode="zero")
  np.testing.assert_allclose(zero, want, atol=1e-10)
  assert zero.mean() == pytest.approx(0.4968795523, abs=1e-10)


def test_formula():
  np.testing.assert_allclose(loss(batch(), beta=0.7), formula(0.3, beta=0.7))
  np.testing.assert_allclose(
    loss(batch(), lambda_desirable=2.0, lambda_undesirable=0.5),
    formula(0.3, desirable=2.0, undesirable=0.5),
  )


def test_a_negative_mean_is_clamped():
  x = batch(partners=(-3.0, 1.0, 0.5, 0.5))
  np.testing.assert_allclose(loss(x), formula(0.0))
  assert not KTO.loss(x).metrics["kl/z0"].any()


def test_policy_at_the_reference():
  x = batch(u=np.zeros(4), partners=0.0)
  got = loss(x, lambda_desirable=1.5, lambda_undesirable=3.0)
  np.testing.assert_array_equal(got, [0.75, 0.75, 1.5, 1.5])


def test_z0_counts_present_partners_of_live_prompts():
  x = batch()
  present = x.present.at[0, 1].set(False)
  np.testing.assert_allclose(
    loss(x.replace(present=present)), formula((0.1 + 0.4 + 0.2) / 3)
  )
  weight = jnp.asarray([1.0, 0.0, 1.0, 5.0])  # weights scale the loss only
  out = KTO.loss(x.replace(weight=weight))
  want = formula((0.5 + 0.4 + 0.2) / 3) * weight
  np.testing.assert_allclose(out.loss, want)
  np.testing.assert_array_equal(out.weight, [1, 0, 1, 1])


def test_gradient_of_the_sums():
  """methods.md 16.3; no gradient reaches the partners through z0."""
  want = [-0.0249694000, -0.0248946718, 0.0248946718, 0.0249975002]
  s = sigma(0.1 * LABELS * (U - 0.3))
  np.testing.assert_allclose(want, -LABELS * 0.1 * s * (1 - s), atol=1e-10)
  x = batch()
  grad = inputs.token_gradient(KTO, x)
  mask = np.asarray(x.completion_mask)
  for b in range(4):
    np.testing.assert_allclose(grad[b, 0][mask[b, 0]], want[b], atol=1e-10)
  assert not grad[:, 1].any() and not grad[~mask].any()


def test_gradient_agrees_with_differences():
  x = single(batch())
  keywords = dict(beta=0.8, lambda_undesirable=1.7, z0_mode="zero")
  fn = lambda logps: jnp.sum(
    KTO.loss(x.replace(policy_logps=logps), **keywords).loss
  )
  np.testing.assert_allclose(
    inputs.token_gradient(KTO, x, **keywords),
    inputs.numeric_gradient(fn, x.policy_logps),
    atol=1e-8,
  )


@pytest.mark.parametrize("u", [-800.0, 800.0])
def test_saturates_both_ways(u):
  x = batch(u=np.full(4, u))
  np.testing.assert_allclose(loss(x), np.where(LABELS * u > 0, 0, 1), atol=1e-9)
  assert np.abs(inputs.token_gradient(KTO, x)).max() < 1e-9


def test_moving_average_of_z0():
  x = batch().replace(state=KTO.init_state(KTO.settings({"z0_mode": "ema"})))
  first = KTO.loss(x, z0_mode="ema")
  z0 = 0.9 * 0.0 + 0.1 * 0.3
  np.testing.assert_allclose(first.loss, formula(z0))
  np.testing.assert_allclose(first.state["z0"], z0)
  second = KTO.loss(
    batch(partners=2.0).replace(state=first.state), z0_mode="ema"
  )
  z0 = 0.9 * z0 + 0.1 * 2.0
  np.testing.assert_allclose(second.loss, formula(z0))
  np.testing.assert_allclose(second.state["z0"], z0)


def test_the_average_itself_may_be_negative():
  """It is the use of z0 that is clamped, or it could never recover."""
  x = batch(partners=-2.0).replace(state={"z0": jnp.asarray(0.1)})
  out = KTO.loss(x, z0_mode="ema")
  np.testing.assert_allclose(out.state["z0"], 0.9 * 0.1 - 0.1 * 2.0)
  np.testing.assert_allclose(out.loss, formula(0.0))


def test_evaluation_leaves_the_state():
  x = batch().replace(state={"z0": jnp.asarray(1.0)}, train=False)
  out = KTO.loss(x, z0_mode="ema")
  assert out.state["z0"] == 1.0
  np.testing.assert_allclose(out.loss, formula(0.9 * 1.0 + 0.1 * 0.3))


def test_metrics_average_over_their_class():
  labels = np.array([1.0, -1.0, -1.0, -1.0])
  x = batch(labels=labels).replace(weight=jnp.asarray([1.0, 1.0, 1.0, 0.0]))
  live = np.array([True, True, True, False])
  mean = {k: np.asarray(v)[live].mean() for k, v in KTO.loss(x).metrics.items()}
  assert mean == pytest.approx(
    {
      "rewards/desirable": 0.1 * 1.0,
      "rewards/undesirable": 0.1 * (-1.0 - 1.0) / 2,
      "rewards/margin": 0.2,
      "kl/z0": (0.5 + 0.1 + 0.4) / 3,
    }
  )


def test_z0_needs_a_partner():
  assert "mismatched_completion" in KTO.needs({})
  assert KTO.needs({"z0_mode": "zero"}) == {"reference_logps"}
  assert KTO.couples_batch({}) and not KTO.couples_batch({"z0_mode": "zero"})
  with pytest.raises(XpoError, match="K = 1.*z0_mode='zero'"):
    KTO.loss(single(batch()))
