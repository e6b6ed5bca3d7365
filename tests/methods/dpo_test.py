"""DPO and its flags: cDPO, ODPO, LD-DPO, RPO, length norm, no reference."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods import inputs
from xpo_jax.methods import registry
from xpo_jax.types import Feedback

DPO = registry.get("dpo")
H = np.array([2.0, -1.5])  # of inputs.golden_pairs


def softplus(z):
  return np.log1p(np.exp(z))


def sigma(z):
  return 1 / (1 + np.exp(-z))


def loss(x, **keywords):
  out = DPO.loss(x, **keywords)
  np.testing.assert_array_equal(out.weight, np.ones(len(out.weight)))
  return np.asarray(out.loss)


def golden(kind=Feedback.ORDER, feedback=((1.0, 0.0), (1.0, 0.0))):
  return inputs.golden_pairs().replace(
    feedback_kind=kind, feedback=jnp.asarray(feedback)
  )


def pair(u_chosen, u_rejected):
  """One pair of the given log-ratios over an uneven reference."""
  return inputs.from_sums(
    [[-12.0 + u_chosen, -15.0 + u_rejected]],
    reference=[[-12.0, -15.0]],
    lengths=[[4, 6]],
    kind=Feedback.ORDER,
    feedback=[[1.0, 0.0]],
  )


def test_golden():
  np.testing.assert_allclose(
    loss(golden()), [0.5981388694, 0.7709570478], atol=1e-10
  )
  np.testing.assert_allclose(
    loss(golden(), label_smoothing=0.1), [0.6181388694, 0.7559570478],
    atol=1e-10,
  )  # fmt: skip
  np.testing.assert_allclose(
    loss(golden(), beta=1.0, length_norm=True), [0.5063600460, 0.8119620020],
    atol=1e-10,
  )  # fmt: skip


def test_formula():
  np.testing.assert_allclose(loss(golden(), beta=0.3), softplus(-0.3 * H))
  per_token = [1 / 4 - -1 / 6, -1 / 8 - 0.5 / 5]
  np.testing.assert_allclose(
    loss(golden(), beta=2.0, length_norm=True),
    softplus(-2 * np.array(per_token)),
  )


def test_policy_at_the_reference():
  x = pair(0.0, 0.0)
  out = DPO.loss(x, beta=0.7)
  assert out.loss[0] == math.log(2)
  assert out.metrics["rewards/margin"] == 0
  assert out.metrics["rewards/accuracy"] == 0  # a tie is no win
  grad = inputs.token_gradient(DPO, x, beta=0.7)[0]
  np.testing.assert_allclose(grad[0, :4], -0.7 / 2)
  np.testing.assert_allclose(grad[1, :6], +0.7 / 2)


def test_identities_in_h():
  for h in (0.3, 2.0, 17.0):
    difference = loss(pair(h, 0.0)) - loss(pair(0.0, h))
    np.testing.assert_allclose(difference, -0.1 * h, rtol=1e-12)
    # Only the difference counts: a constant of the prompt cancels.
    np.testing.assert_allclose(loss(pair(h + 5.0, 5.0)), loss(pair(h, 0.0)))
  values = [loss(pair(h, 0.0))[0] for h in (-900, -3, 0, 1, 50, 900)]
  assert all(a > b for a, b in zip(values, values[1:]))
  np.testing.assert_allclose(
    loss(pair(400.0, 0.0)), math.exp(-40.0), rtol=1e-12
  )


def test_small_beta_expansion():
  beta = 1e-3
  want = math.log(2) - beta * H / 2 + (beta * H) ** 2 / 8
  np.testing.assert_allclose(loss(golden(), beta=beta), want, atol=1e-13)


def test_gradient_of_the_sums():
  want = np.array([-0.0450166003, -0.0537429845])  # methods.md 16.3
  np.testing.assert_allclose(want, -0.1 * sigma(-0.1 * H), atol=1e-10)
  grad = inputs.token_gradient(DPO, golden())
  for b, (n_chosen, n_rejected) in enumerate([(4, 6), (8, 5)]):
    np.testing.assert_allclose(grad[b, 0, :n_chosen], want[b], atol=1e-10)
    np.testing.assert_allclose(grad[b, 1, :n_rejected], -want[b], atol=1e-10)
    assert not grad[b, 0, n_chosen:].any() and not grad[b, 1, n_rejected:].any()


def test_a_prompt_inside_the_columns_gets_no_gradient():
  x = golden()
  mask = np.array(x.completion_mask)
  mask[..., :2] = False  # as if the first two columns were the shared prompt
  grad = inputs.token_gradient(DPO, x.replace(completion_mask=mask))
  assert not grad[..., :2].any() and grad[..., 2].all()


def test_label_smoothing_has_its_minimum_at_the_binary_entropy():
  e, beta = 0.1, 0.5
  h = math.log((1 - e) / e) / beta
  entropy = -e * math.log(e) - (1 - e) * math.log(1 - e)
  at = lambda h: loss(pair(h, 0.0), beta=beta, label_smoothing=e)[0]
  assert at(h) == pytest.approx(entropy, abs=1e-12)
  assert at(h) < min(at(h - 0.1), at(h + 0.1))


def test_probability_feedback_is_a_soft_label():
  p = np.array([0.8, 0.35])
  x = golden(Feedback.PROBABILITY, np.stack([p, 1 - p], -1))
  z = 0.1 * H
  np.testing.assert_allclose(loss(x), p * softplus(-z) + (1 - p) * softplus(z))
  q = p * 0.9 + (1 - p) * 0.1  # smoothed after
  np.testing.assert_allclose(
    loss(x, label_smoothing=0.1), q * softplus(-z) + (1 - q) * softplus(z)
  )
  sure = golden(Feedback.PROBABILITY)
  np.testing.assert_array_equal(loss(sure), loss(golden()))


def test_offset_scales_with_the_margin():
  x = golden(Feedback.MARGIN, [[3.0, 0.0], [0.5, 0.0]])
  want = softplus(-(0.1 * H - 0.4 * np.array([3.0, 0.5])))
  np.testing.assert_allclose(loss(x, offset=0.4), want)
  np.testing.assert_array_equal(loss(x), loss(golden()))
  np.testing.assert_allclose(
    loss(golden(), offset=0.4), softplus(-(0.1 * H - 0.4))
  )


def test_nll_coef_adds_the_chosen_mean_nll():
  mean_logp = np.array([-12.0 / 4, -20.5 / 8])
  np.testing.assert_allclose(
    loss(golden(), nll_coef=0.3), softplus(-0.1 * H) - 0.3 * mean_logp
  )


def test_reference_free_is_a_uniform_reference():
  x = inputs.golden_pairs(reference=False)
  s = np.array([-12.0 + 15.0, -20.5 + 18.25])
  np.testing.assert_allclose(loss(x, reference_free=True), softplus(-0.1 * s))
  assert DPO.needs({"reference_free": True}) == set()
  assert DPO.needs({}) == {"reference_logps"}


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_ld_alpha_weighs_what_is_past_the_shorter_completion(alpha):
  policy = np.array([[[-1.0, -2.0, -3.0, -4.0], [-0.5, -0.25, 9.0, 9.0]]])
  reference = np.array([[[-2.0, -1.5, -1.0, -6.0], [-1.0, -1.5, 9.0, 9.0]]])
  x = inputs.from_sums(
    [[-1.0, -1.0]], reference=[[-1.0, -1.0]], lengths=[[3, 1]],
    kind=Feedback.ORDER, feedback=[[1.0, 0.0]],
  ).replace(
    policy_logps=jnp.asarray(policy),
    reference_logps=jnp.asarray(reference),
    completion_mask=jnp.asarray([[[True] * 4, [True, True, False, False]]]),
  )  # fmt: skip
  u_chosen = (-1 + 2) + (-2 + 1.5) + alpha * ((-3 + 1) + (-4 + 6))
  u_rejected = (-0.5 + 1) + (-0.25 + 1.5)
  np.testing.assert_allclose(
    loss(x, beta=0.4, ld_alpha=alpha),
    [softplus(-0.4 * (u_chosen - u_rejected))],
  )


@pytest.mark.parametrize(
  "keywords",
  [
    dict(),
    dict(label_smoothing=0.2, offset=0.3),
    dict(length_norm=True, beta=2.0),
    dict(nll_coef=0.7, ld_alpha=0.4),
  ],
)
def test_gradient_agrees_with_differences(keywords):
  x = golden(Feedback.MARGIN, [[3.0, 0.0], [0.5, 0.0]])
  fn = lambda logps: jnp.sum(
    DPO.loss(x.replace(policy_logps=logps), **keywords).loss
  )
  np.testing.assert_allclose(
    inputs.token_gradient(DPO, x, **keywords),
    inputs.numeric_gradient(fn, x.policy_logps),
    atol=1e-8,
  )


def test_metrics():
  got = DPO.loss(golden()).metrics
  want = {
    "rewards/chosen": [0.1, -0.1],
    "rewards/rejected": [-0.1, 0.05],
    "rewards/margin": [0.2, -0.15],
    "rewards/accuracy": [1, 0],
    "logps/chosen": [-12, -20.5],
    "logps/rejected": [-15, -18.25],
  }
  assert got.keys() == want.keys()
  for key in want:
    np.testing.assert_allclose(got[key], want[key], err_msg=key)
