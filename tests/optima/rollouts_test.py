"""On-policy methods: samples of the policy itself, enumerated at every step.

The table's weights are the probabilities of the samples under the policy, so
the slope is the exact policy gradient. It is followed in its natural form
(divided by the probabilities), which moves every logit by its advantage.
"""

import itertools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.optima import bandit as b
from tests.optima import tables as t
from xpo_jax.types import Feedback

REFERENCE = np.array([0.5, 0.3, 0.2])
R = np.array([1.0, 0.2, -0.5])
BETA = 0.3
BEST = t.tilted(REFERENCE, R / BETA)


def policy_optimum(name, table, rate=1.0, **keywords) -> np.ndarray:
  def loss(params):
    log_policy = jax.nn.log_softmax(params["policy"])
    return b.expected(name, b.rollout(table, log_policy, REFERENCE), **keywords)

  got = b.settle(loss, b.logits(REFERENCE), rate=rate, natural=True)
  return np.exp(got["policy"])


def test_the_point_that_is_meant():
  np.testing.assert_allclose(BEST, [0.958, 0.040, 0.003], atol=5e-4)


@pytest.mark.parametrize("size", [2, 3])
def test_rloo_is_unbiased(size):
  """The regularised optimum for any number of samples."""
  b.near(policy_optimum("rloo", t.tuples(R, size), beta=BETA), BEST)


@pytest.mark.parametrize(
  "kl_loss, beta", [("k2", BETA * 4 / 3), ("k1_reward", BETA)]
)
def test_dr_grpo(kl_loss, beta):
  """The group's mean takes 1 / G of the reward, but not of a KL in the loss.

  With k2 the optimum is that of beta G / (G - 1); a KL in the reward shrinks
  with it, so the optimum is that of beta.
  """
  keywords = {"beta": BETA, "kl_loss": kl_loss, "loss_length": 1}
  got = policy_optimum("dr_grpo", t.tuples(R, 4), **keywords)
  b.near(got, t.tilted(REFERENCE, R / beta))


def test_dr_grpo_with_k3_follows_the_forward_kl():
  """p (G - 1) / G (r - E r) = beta (p - reference), so p has a pole in r.

  p = beta reference / (c - r (G - 1) / G), c such that it adds up to 1: the
  maximum of the reward minus beta KL(reference, p).
  """
  keywords = {"beta": BETA, "kl_loss": "k3", "loss_length": 1}
  got = policy_optimum("dr_grpo", t.tuples(R, 4), rate=0.1, **keywords)
  density = lambda c: BETA * REFERENCE / (c - 0.75 * R)
  c = t.zero_of(lambda c: density(c).sum() - 1, 0.75 + 1e-9, 10.0)
  b.near(got, density(c))


def biased_point(kl_loss, ddof) -> np.ndarray:
  """Where E[A | arm] = beta times the slope of the KL, for groups of four.

  A = (r - mean) / (deviation + 1e-4), by the multinomial over group counts.
  """
  counts = [n for n in itertools.product(range(5), repeat=3) if sum(n) == 4]
  n = np.array(counts, float)
  many = [
    24 / np.prod([np.prod(range(1, k + 1)) for k in row]) for row in counts
  ]
  mean = n @ R / 4
  spread = np.sqrt(n @ R**2 / 4 - mean**2) * np.sqrt(4 / (4 - ddof)) + 1e-4
  advantage = (R - mean[:, None]) / spread[:, None]
  logits = np.log(REFERENCE)
  for _ in range(2_000):
    p = t.tilted(np.ones(3), logits)
    chance = many * np.prod(p**n, axis=1)
    pull = chance @ (n / 4 * advantage) / p
    kl = np.log(p / REFERENCE) if kl_loss == "k2" else 1 - REFERENCE / p
    move = pull - BETA * kl
    logits += 0.1 * (move - p @ move)
  assert abs(move - p @ move).max() < 1e-12
  return p


@pytest.mark.parametrize(
  "name, kl_loss, ddof",
  [("grpo", "k3", 1), ("grpo", "k2", 0), ("dapo", "k3", 0), ("gspo", "k2", 1)],
)
def test_the_deviation_biases_grpo(name, kl_loss, ddof):
  """Its own point, not the optimum: [.907, .057, .035] by default."""
  keywords = {"beta": BETA, "kl_loss": kl_loss, "std_ddof": ddof}
  got = policy_optimum(name, t.tuples(R, 4), rate=0.1, **keywords)
  b.near(got, biased_point(kl_loss, ddof))
  assert abs(got - BEST).max() > 0.03
  if (name, ddof) == ("grpo", 1):
    np.testing.assert_allclose(got, [0.907, 0.057, 0.035], atol=1e-3)


def test_reinforce_pp_baseline():
  """Optimum of beta s G / (G - 1), s the deviation that whitening divides by.

  The k2 term is in the loss and is not whitened. Whitening counts the rows of
  the batch, here every tuple once: s^2 = (G - 1) / G Var(r) over equal arms.
  """
  got = policy_optimum("reinforce_pp_baseline", t.tuples(R, 3), kl_coef=BETA)
  s = np.sqrt(np.var(R) * 2 / 3)
  b.near(got, t.tilted(REFERENCE, R / (BETA * s * 3 / 2)))


def test_reinforce_pp():
  """Whitening scales all advantages alike: the optimum stays.

  There they all are equal, and their deviation is held at 1e-4: the steps,
  nearly constant in size before, have to decay.
  """
  table = t.tuples(R, 1)

  def loss(params):
    log_policy = jax.nn.log_softmax(params["policy"])
    x = b.rollout(table, log_policy, REFERENCE)
    return b.expected("reinforce_pp", x, kl_coef=BETA)

  start = b.logits(REFERENCE)
  got = b.settle(loss, start, rate=0.2, decay=0.985, natural=True)
  b.near(np.exp(got["policy"]), BEST)


def test_ppo_and_its_value():
  """The same; and V = the expected reward after the KL = beta log Z.

  A large value_coef lets V follow to the end while the steps decay.
  """
  table = t.tuples(R, 1)

  def loss(params):
    log_policy = jax.nn.log_softmax(params["policy"])
    values = jnp.broadcast_to(params["value"], (3, 1, 1))
    old = lax.stop_gradient(values)
    fields = {"values": values, "old_values": old}
    x = b.rollout(table, log_policy, REFERENCE, **fields)
    return b.expected("ppo", x, kl_coef=BETA, value_coef=50.0)

  start = b.logits(REFERENCE) | {"value": jnp.zeros(())}
  got = b.settle(loss, start, rate=0.02, decay=0.995, natural=True)
  b.near(np.exp(got["policy"]), BEST)
  b.near(got["value"], BETA * np.log(REFERENCE @ np.exp(R / BETA)))


def xpo_optimum(rewards, reference, **keywords) -> np.ndarray:
  """Pairs of a sample of the policy and one of the reference."""
  count = len(rewards)
  arms = np.array(list(itertools.product(range(count), repeat=2)))
  wins = t.bradley_terry(rewards)[tuple(arms.T)]
  soft = np.stack([wins, 1 - wins], -1)
  table = t.Table(Feedback.PROBABILITY, arms, soft, np.full(count**2, np.nan))

  def loss(params):
    log_policy = jax.nn.log_softmax(params["policy"])
    chance = jnp.exp(lax.stop_gradient(log_policy))[arms[:, 0]]
    weight = chance * reference[arms[:, 1]]
    x = b.observe(table, log_policy, reference, weight=weight)
    return b.expected("xpo", x, beta=BETA, **keywords)

  got = b.settle(loss, b.logits(reference), rate=3.0)
  return np.exp(got["policy"])


def test_xpo_without_exploration():
  b.near(xpo_optimum(R, REFERENCE, alpha=0.0), BEST)


def test_xpo_explores_away_from_the_reference():
  """Two arms: the root of the slope in z = log p_0 - log p_1.

  A pair of different arms, drawn with p_0 ref_1 + p_1 ref_0, has the slope beta
  (sigma(beta h) - P); alpha S of the reference's sample has alpha (ref_0 -
  p_0), which is negative beyond the reference.
  """
  reference, alpha = np.array([0.6, 0.4]), 0.02
  rewards = np.array([0.3, 0.0])

  def slope(z):
    p, h = t.sigma(z), z - t.logit(0.6)
    drawn = p * 0.4 + (1 - p) * 0.6
    residual = t.sigma(BETA * h) - t.sigma(0.3)
    return BETA * drawn * residual + alpha * (0.6 - p)

  want = t.sigma(t.zero_of(slope, 0.0, 6.0))
  got = xpo_optimum(rewards, reference, alpha=alpha)
  b.near(got[0], want)
  assert want > t.tilted(reference, rewards / BETA)[0] + 0.01


GAME = np.array([[0.5, 0.7, 0.2], [0.3, 0.5, 0.9], [0.8, 0.1, 0.5]])
TAU = 0.5


def play(name, game, opponent, start=REFERENCE, reference=REFERENCE, tau=TAU):
  """Where self-play stops.

  Args:
    name: the method.
    game: P(i beats j).
    opponent: its log-probs, from those of the policy.
    start, reference: [V].
    tau: weight of the KL.
  """
  arms, open_ = np.arange(3)[:, None], np.full((3, 1), np.nan)
  table = t.Table(Feedback.PROBABILITY, arms, open_, open_[:, 0])

  def loss(params):
    log_policy = jax.nn.log_softmax(params["policy"])
    other = jnp.exp(opponent(lax.stop_gradient(log_policy)))
    feedback = (game @ other)[:, None]
    x = b.rollout(table, log_policy, reference, feedback=feedback)
    return b.expected(name, x, tau=tau)

  got = b.settle(loss, b.logits(start), rate=0.5, natural=True)
  return np.exp(got["policy"])


def test_nash_ema_at_rest_plays_the_regularised_nash_policy():
  """p proportional to reference * exp(P(y beats p) / tau).

  At rest the averaged parameters are the policy's own.
  """
  got = play("nash_ema", GAME, lambda log_policy: log_policy)
  b.near(got, [0.4947682262, 0.2920626286, 0.2131691452])
  b.near(got, t.tilted(REFERENCE, GAME @ got / TAU))


@pytest.mark.parametrize("mixing", [0.25, 1.0])
def test_nash_md_answers_its_mixture(mixing):
  """p proportional to reference * exp(P(y beats the mixture) / tau).

  Mixture: p^(1 - m) reference^m; m = 1 is the best response to the reference.
  """
  mixed = lambda log_policy: jax.nn.log_softmax(
    (1 - mixing) * log_policy + mixing * jnp.log(REFERENCE)
  )
  got = play("nash_md", GAME, mixed)
  want = got if mixing < 1 else REFERENCE
  other = t.tilted(want ** (1 - mixing) * REFERENCE**mixing, np.zeros(3))
  b.near(got, t.tilted(REFERENCE, GAME @ other / TAU))


@pytest.mark.parametrize("name, mixing", [("nash_ema", 0), ("nash_md", 0.25)])
def test_rock_paper_scissors_ends_in_the_middle(name, mixing):
  """From elsewhere; Nash-MD against its mixture with the reference."""
  third = np.full(3, 1 / 3)
  cycle = np.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]])
  mixed = lambda log_policy: jax.nn.log_softmax(
    (1 - mixing) * log_policy + mixing * jnp.log(third)
  )
  start = np.array([0.8, 0.15, 0.05])
  b.near(play(name, cycle, mixed, start=start, reference=third), third)


def test_nash_md_finds_the_mixed_equilibrium():
  """A cycle that is not even, and a weak reference: near the game's own p.

  P(i beats p) = 1/2 for all i at p = (margin of j over k, cyclically).
  """
  margins = np.array([[0, 0.2, -0.4], [-0.2, 0, 0.3], [0.4, -0.3, 0]])
  nash = np.array([0.3, 0.4, 0.2]) / 0.9
  np.testing.assert_allclose(margins @ nash, 0, atol=1e-12)
  mixing = 0.02
  reference = np.array([0.4, 0.25, 0.35])
  mixed = lambda log_policy: jax.nn.log_softmax(
    (1 - mixing) * log_policy + mixing * jnp.log(reference)
  )
  got = play("nash_md", 0.5 + margins, mixed, reference=reference, tau=0.02)
  assert abs(got - nash).max() < 0.05 < abs(reference - nash).max()
