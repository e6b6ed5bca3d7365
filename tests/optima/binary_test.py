"""Single completions with labels or scores, and demonstrations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.optima import bandit as b
from tests.optima import tables as t
from xpo_jax.types import Feedback

BETA = 0.7
R = t.REWARDS
BEST = t.tilted(t.REFERENCE, R / BETA)
LOG_Z = np.log(t.REFERENCE @ np.exp(R / BETA))
WIDE = np.array([0.1, 0.15, 0.15, 0.3, 0.3])  # two arms outside the data
GOOD = np.array([0.3, 0.9, 0.6])  # P(desirable) of the other three
THREE = np.array([0.2, 0.5, 0.3])  # their data distribution


@pytest.mark.parametrize(
  "delta_mode, threshold", [("zero", BETA * LOG_Z), ("batch", R.mean())]
)
def test_bco_finds_the_optimum_behind_threshold_labels(delta_mode, threshold):
  """Desirable with probability sigma(r - c): beta u = r - c + delta.

  With delta = 0 the log-ratios are absolute, so p adds up to 1 only for the c
  of the regularised optimum, beta log Z. The mean of a batch follows the
  constant of beta u by itself; it takes labels that are balanced in log-odds.
  """
  table = t.labels(t.sigma(R - threshold), t.DRAWS)
  got = b.optimum("bco", table, rate=2.0, beta=BETA, delta_mode=delta_mode)
  b.near(got, np.log(BEST))


def test_bco_rewards_are_absolute():
  """delta = 0: beta u = the log-odds of being desirable."""
  got = b.optimum(
    "bco",
    t.labels(GOOD, THREE),
    rate=1.0,
    reference=WIDE,
    beta=2.0,
    delta_mode="zero",
  )
  b.near(2.0 * (got - np.log(WIDE))[:3], t.logit(GOOD))


def test_bco_pair_rewards_are_log_odds_of_winning():
  """beta u_i = the log-odds of being the winner of a pair with i in it."""
  wins = t.CYCLIC[:3, :3]
  table = t.pairs(wins, THREE)
  got = b.optimum("bco_pair", table, rate=0.5, reference=WIDE, beta=2.0)
  met = THREE * (1 - np.eye(3))
  share = np.sum(met * wins, 1) / np.sum(met, 1)
  b.near(2.0 * (got - np.log(WIDE))[:3], t.logit(share))


@pytest.mark.parametrize("value", ["head", "tokens"])
def test_dro_finds_policy_and_value(value):
  """u = (r - V) / tau with V = tau log E_reference e^(r / tau).

  For any distribution of the data: DRAWS is not the reference.
  """
  arms = np.arange(4)[:, None]
  table = t.Table(Feedback.SCORE, arms, R[:, None], t.DRAWS)

  def loss(params):
    log_policy = jax.nn.log_softmax(params["policy"])
    values = jnp.broadcast_to(params["value"], (4, 1, 1))
    x = b.observe(table, log_policy, t.REFERENCE, values=values)
    return b.expected("dro", x, tau=BETA, value=value)

  start = b.logits() | {"value": jnp.zeros(())}
  got = b.settle(loss, start, rate=0.5)
  b.near(got["policy"], np.log(BEST))
  b.near(got["value"], BETA * LOG_Z)


def test_dro_without_value():
  """Pairs of scored completions: tau (u_1 - u_2) = r_1 - r_2."""
  table = t.pairs(np.full((4, 4), 0.5))
  table = t.Table(Feedback.SCORE, table.arms, R[table.arms], table.weight)
  got = b.optimum("dro", table, rate=1.0, tau=BETA, value="none")
  b.near(got, np.log(BEST))


def test_sft_gives_the_empirical_distribution():
  arms = np.arange(4)[:, None]
  table = t.Table(Feedback.DEMONSTRATION, arms, np.ones((4, 1)), t.DRAWS)
  got = b.optimum("sft", table, rate=1.0, start=t.REFERENCE)
  b.near(got, np.log(t.DRAWS))


@pytest.mark.parametrize("norm", ["separate", "joint"])
def test_cringe_adds_the_contrast_to_the_good_share(norm):
  """Two arms, arm 0 a share g of the good texts, arm 1 the bad one.

  0 = (p - g) + alpha (p - 1), as the contrast is softplus(log p_1 - log p_0).
  """
  g, alpha = 0.6, 0.5
  rows = {"separate": [2 * g, 2 * (1 - g), 1.0], "joint": [g, 1 - g, 1.0]}
  table = t.Table(
    Feedback.BINARY,
    np.array([[0], [1], [1]]),
    np.array([[1.0], [1.0], [-1.0]]),
    np.array(rows[norm]),  # of 2 good tokens, 1 bad token, or all 3
  )
  other = np.array([[1], [0], [0]])
  fields = lambda log_policy: {"contrast_logps": log_policy[other][..., None]}
  keywords = {"alpha": alpha, "norm": norm, "fields": fields}
  half = np.array([0.5, 0.5])
  got = b.optimum("cringe", table, rate=0.3, start=half, **keywords)
  b.near(np.exp(got[0]), (g + alpha) / (1 + alpha))
