"""Nash-MD: win rate against the mixture minus the KL still to come."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.methods import inputs
from tests.methods import tokens as t
from xpo_jax.types import Feedback

# methods.md 12.1: P(i beats j), reference mu, and the Nash policy at tau .5.
GAME = np.array([[0.5, 0.7, 0.2], [0.3, 0.5, 0.9], [0.8, 0.1, 0.5]])
MU = np.array([0.5, 0.3, 0.2])
NASH = np.array([0.4947682262, 0.2920626286, 0.2131691452])


def samples(u, wins, mask=None):
  u = np.asarray(u, float)
  reference = np.full(u.shape, -1.5)
  return t.from_arrays(
    Feedback.PROBABILITY,
    wins,
    mask=mask,
    policy_logps=u + reference,
    reference_logps=reference,
  )


def test_golden_token_advantages():
  x = samples([[[0.1, -0.2, 0.05]]], [[0.8]])
  want = [0.3 + 0.008 * 0.05, 0.3 + 0.008 * 0.15, 0.3 - 0.008 * 0.05]
  t.close(want, [0.3004, 0.3012, 0.2996])
  t.close(t.gradient("nash_md", x)[0, 0], -np.array(want))
  logps = np.array([-1.4, -1.7, -1.45])
  t.close(t.per_prompt("nash_md", x), [-logps @ want])


def test_even_odds_at_the_reference_are_stationary():
  x = samples(np.zeros((1, 2, 2)), [[0.5, 0.5]])
  t.close(t.gradient("nash_md", x), np.zeros((1, 2, 2)))


def test_a_mean_over_the_policys_samples_only():
  """The opponent's sample has no counted token."""
  u = [[[0.1, -0.2], [0.4, 0.3]], [[0.2, 0.1], [0.5, 0.6]]]
  mask = [[[1, 1], [0, 0]], [[1, 0], [1, 1]]]
  x = samples(u, [[0.8, 0.2], [0.4, 0.9]], mask)
  out = t.run("nash_md", x.replace(reference_logps=None), tau=0.0)
  np.testing.assert_array_equal(out.weight, [1, 2])
  t.close(out.loss, [0.3 * 3.1, -0.1 * 1.3 + 0.4 * 1.9])


def expected_gradient(logits, opponent, tau, game=GAME, mu=MU):
  """Over all single-token samples of softmax(logits)."""
  p = np.asarray(jax.nn.softmax(logits))
  x = t.from_arrays(
    Feedback.PROBABILITY,
    (game @ opponent)[:, None],
    policy_logps=np.log(p)[:, None, None],
    reference_logps=np.log(mu)[:, None, None],
  ).replace(weight=jnp.asarray(p * 3))

  def fn(logits):
    logps = jax.nn.log_softmax(logits)[:, None, None]
    out = t.run("nash_md", x.replace(policy_logps=logps), tau=tau)
    return inputs.total(out)

  return np.asarray(jax.grad(fn)(logits))


def test_the_nash_policy_is_stationary():
  best = MU * np.exp(GAME @ NASH / 0.5)
  t.close(best / best.sum(), NASH)
  t.close(expected_gradient(jnp.log(NASH), NASH, 0.5), np.zeros(3))
  moved = expected_gradient(jnp.log(NASH) + jnp.asarray([0.3, 0, 0]), NASH, 0.5)
  assert np.abs(moved).max() > 0.01


def test_rock_paper_scissors_has_the_uniform_policy():
  game = np.array([[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]])
  t.close(game + game.T, np.ones((3, 3)))
  uniform = np.full(3, 1 / 3)
  got = expected_gradient(jnp.zeros(3), uniform, 0.2, game, uniform)
  t.close(got, np.zeros(3))


def test_reward_to_go_is_the_exact_gradient():
  """Two binary tokens: the gradient of E P - tau KL over all sequences."""
  first, second = (
    jnp.asarray([0.3, -0.4]),
    jnp.asarray([[0.1, 0.9], [-0.6, 0.2]]),
  )
  mu = np.array([[[0.7, 0.4], [0.7, 0.6]], [[0.3, 0.9], [0.3, 0.1]]])
  wins, tau = np.array([[0.9, 0.3], [0.2, 0.6]]), 0.4

  def logps(first, second):
    one = jnp.broadcast_to(jax.nn.log_softmax(first)[:, None], (2, 2))
    return jnp.stack([one, jax.nn.log_softmax(second, -1)], -1)  # [i, j, T]

  def exact(first, second):
    lp = logps(first, second)
    p = jnp.exp(jnp.sum(lp, -1))
    return -jnp.sum(p * (wins - tau * jnp.sum(lp - np.log(mu), -1)))

  p = np.exp(np.sum(logps(first, second), -1)).reshape(4)
  x = t.from_arrays(
    Feedback.PROBABILITY,
    wins.reshape(4, 1),
    policy_logps=np.reshape(logps(first, second), (4, 1, 2)),
    reference_logps=np.log(mu).reshape(4, 1, 2),
  ).replace(weight=jnp.asarray(4 * p))

  def sampled(first, second):
    policy = logps(first, second).reshape(4, 1, 2)
    out = t.run("nash_md", x.replace(policy_logps=policy), tau=tau)
    return inputs.total(out)

  got = jax.grad(sampled, argnums=(0, 1))(first, second)
  want = jax.grad(exact, argnums=(0, 1))(first, second)
  t.close(got[0], want[0])
  t.close(got[1], want[1])
