"""Policy-gradient maths against methods.md 16.4 and enumerations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xpo_jax import returns

REWARDS = np.array([-0.02, 0.01, -0.03, 1.0])
VALUES = np.array([0.2, 0.3, 0.1, 0.4])


@pytest.fixture(autouse=True)
def x64():
  with jax.enable_x64(True):
    yield


def close(got, want, atol=1e-9):
  np.testing.assert_allclose(got, want, rtol=0, atol=atol)


def gae(gamma, gae_lambda, rewards=REWARDS, values=VALUES, mask=None):
  mask = np.ones(len(rewards), bool) if mask is None else np.array(mask, bool)
  rewards, values = jnp.asarray(rewards), jnp.asarray(values)
  return np.asarray(
    returns.gae(rewards, values, jnp.asarray(mask), gamma, gae_lambda)
  )


@pytest.mark.parametrize(
  "gamma, gae_lambda, want",
  [
    (1.0, 0.95, [0.6576, 0.608, 0.84, 0.6]),
    (0.9, 0.8, [0.2491808, 0.27664, 0.662, 0.6]),
    (1.0, 1.0, [0.76, 0.68, 0.87, 0.6]),
  ],
)
def test_gae_golden(gamma, gae_lambda, want):
  close(gae(gamma, gae_lambda), want)


def test_gae_limits():
  """lambda = 1: returns minus values; lambda = 0: the TD error."""
  to_go = [sum(0.9**k * r for k, r in enumerate(REWARDS[t:])) for t in range(4)]
  close(gae(0.9, 1.0), to_go - VALUES)
  after = np.append(VALUES[1:], 0.0)
  close(gae(0.9, 0.0), REWARDS + 0.9 * after - VALUES)


def test_gae_skips_masked_places():
  """They neither decay nor reset, wherever they are."""
  spaced = np.array([7.0, -0.02, 7.0, 0.01])
  mask = [False, True, False, True]
  values = np.array([7.0, 0.2, 7.0, 0.3])
  got = gae(0.9, 0.8, spaced, values, mask)
  last = 0.01 - 0.3
  close(got, [0, -0.02 + 0.9 * 0.3 - 0.2 + 0.9 * 0.8 * last, 0, last])


def test_whitening_golden():
  adv = jnp.asarray([0.6576, 0.608, 0.84, 0.6])
  got = returns.whiten(adv, jnp.ones(4, bool), add=returns.VARIANCE_EPS)
  want = [-0.19381969, -0.70517375, 1.68664365, -0.78765021]
  close(got, want, atol=1e-6)
  wide = jnp.append(adv, 99.0)
  masked = returns.whiten(wide, jnp.arange(5) < 4, add=returns.VARIANCE_EPS)
  close(masked, np.append(got, 0.0))


def test_last_token():
  mask = jnp.asarray([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
  want = [[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
  np.testing.assert_array_equal(returns.last_token(mask), want)
  score = returns.score_at_end(jnp.asarray([2.0, 3.0, 4.0]), mask)
  np.testing.assert_array_equal(score, np.array(want) * [[2], [3], [4]])


def test_kl_estimators_golden():
  d = jnp.asarray([0.1, -0.2])
  kl = lambda kind: returns.kl_estimate(d, jnp.zeros(2), kind)
  close(kl("k1"), d)
  close(kl("k2"), [0.005, 0.02])
  close(kl("k3"), [0.0048374180, 0.0214027582])


LOGITS, REFERENCE = np.array([0.3, -0.5, 1.1]), np.array([0.5, 0.2, 0.3])


def expected_kl(kind, frozen_samples=True):
  """E_pi[estimate] over a 3-way softmax; samples fixed or not."""

  def fn(logits):
    logps = jax.nn.log_softmax(logits)
    p = jnp.exp(logps)
    p = jax.lax.stop_gradient(p) if frozen_samples else p
    return p @ returns.kl_estimate(logps, jnp.log(REFERENCE), kind)

  return jax.value_and_grad(fn)(jnp.asarray(LOGITS))


def test_kl_estimators_as_values_and_as_losses():
  """k1 and k3 are unbiased; k2 has the reverse, k3 the forward gradient."""
  p = np.exp(LOGITS) / np.sum(np.exp(LOGITS))
  reverse = p @ np.log(p / REFERENCE)
  close(expected_kl("k1")[0], reverse)
  close(expected_kl("k3")[0], reverse)
  assert abs(expected_kl("k2")[0] - reverse) > 1e-3
  close(expected_kl("k1")[1], np.zeros(3))
  close(expected_kl("k2")[1], p * (np.log(p / REFERENCE) - reverse))
  close(expected_kl("k3")[1], p - REFERENCE)


def test_k3_never_pushes_the_wrong_way():
  slope = jax.grad(lambda d: returns.kl_estimate(d, 0.0 * d, "k3"))
  assert slope(jnp.asarray(50.0)) == pytest.approx(1.0)
  assert slope(jnp.asarray(-19.0)) < -1e8
  assert slope(jnp.asarray(-21.0)) == 0.0


LOGRATIO = np.array([0.3, -0.1, 0.05, -0.4])
ADVANTAGES = np.array([1.0, -1.0, 0.5, -2.0])


def surrogate(logratio=LOGRATIO, advantages=ADVANTAGES, **keywords):
  ranges = {"clip_low": 0.2, "clip_high": 0.2} | keywords
  return returns.clipped_surrogate(
    jnp.asarray(logratio), jnp.asarray(advantages), **ranges
  )


def test_clipping_golden():
  loss, clipped = surrogate()
  want = [-1.2, np.exp(-0.1), -0.5 * np.exp(0.05), 2 * 0.8]
  close(loss, want)
  close(want, [-1.2, 0.9048374180, -0.5256355482, 1.6])
  close(np.mean(want), 0.1948004675)
  np.testing.assert_array_equal(clipped, [True, False, False, True])
  higher, _ = surrogate(clip_high=0.28)
  close(higher, [-1.28, *want[1:]])
  close(np.mean(higher), 0.1748004675)


def test_no_gradient_where_it_clips():
  fn = lambda z: jnp.sum(surrogate(z)[0])
  want = -ADVANTAGES * np.exp(LOGRATIO) * [0, 1, 1, 0]
  close(jax.grad(fn)(jnp.asarray(LOGRATIO)), want)
  close(jax.grad(fn)(jnp.zeros(4)), -ADVANTAGES)  # at ratio 1


def test_dual_clip():
  one = dict(logratio=[1.5], advantages=[-2.0])
  close(surrogate(**one)[0], [2 * np.exp(1.5)])
  close(surrogate(**one)[0], [8.9633781401])
  close(surrogate(**one, dual_clip=3.0)[0], [6.0])
  loss, _ = surrogate(dual_clip=3.0)  # A > 0, or within the bound: no change
  close(loss, surrogate()[0])


@pytest.mark.parametrize(
  "kl, want", [(6.0, 0.2), (9.0, 0.201024), (3.0, 0.198976)]
)
def test_adaptive_kl_golden(kl, want):
  got = returns.adapted_kl_coef(
    0.2, kl, target=6.0, horizon=10000.0, episodes=256.0
  )
  close(got, want)
  close(got, 0.2 * (1 + np.clip(kl / 6 - 1, -0.2, 0.2) * 256 / 10000))
