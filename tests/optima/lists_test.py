"""List losses: each member's own optimum, relative or absolute."""

import dataclasses

import numpy as np
import pytest

from tests.optima import bandit as b
from tests.optima import tables as t
from xpo_jax.types import Feedback

BETA = 0.7
R = t.REWARDS
WIDE = np.array([0.1, 0.15, 0.15, 0.3, 0.3])  # two arms outside every list
LISTED = np.array([0.3, 0.9, 0.5])  # labels of the other three


@pytest.mark.parametrize(
  "name, keywords, exponent",
  [
    ("exo", {"beta_r": 0.8}, R / (0.8 * BETA)),
    ("infonca", {"alpha": 0.8}, R / (0.8 * BETA)),
    ("lipo", {"loss": "softmax"}, R / BETA),
    ("dno", {}, R / BETA),
  ],
)
def test_one_list_of_all_arms(name, keywords, exponent):
  """beta u = score / temperature + constant.

  exo and infonca: softmax(beta u) = softmax(r / temperature), in either
  direction of the KL. dno: eta (u_i - u_j) = r_i - r_j.
  """
  beta = "eta" if name == "dno" else "beta"
  table = t.whole_list(R)
  got = b.optimum(name, table, rate=1 / BETA**2, **{beta: BETA}, **keywords)
  b.near(got, np.log(t.tilted(t.REFERENCE, exponent)))


@pytest.mark.parametrize(
  "name, keywords",
  [("lipo", {"loss": "listmle"}), ("lipo", {"loss": "logistic"})],
)
def test_plackett_luce_orders_give_back_the_rewards(name, keywords):
  """All 24 orders, each with its probability under the rewards.

  Their likelihood is highest at the rewards themselves; and of any two items,
  i comes first with probability sigma(r_i - r_j), the optimum of the pairs.
  """
  table = t.rankings()
  got = b.optimum(name, table, rate=0.5 / BETA**2, beta=BETA, **keywords)
  b.near(got, np.log(t.tilted(t.REFERENCE, R / BETA)))


@pytest.mark.parametrize("sft_coef", [0.0, 0.05])
def test_pro_without_reference(sft_coef):
  """p = softmax(r): the best text's NLL alone has the same optimum.

  An arm is first with probability softmax(r).
  """
  keywords = {"temperature": False, "sft_coef": sft_coef}
  got = b.optimum("pro", t.rankings(), rate=0.5, start=t.REFERENCE, **keywords)
  b.near(got, np.log(t.tilted(np.ones(4), R)))


def test_pro_divides_by_its_temperatures():
  """K = 2: (log p_w - log p_l) (phi_w - phi_l) = log-odds of winning."""
  table = t.chain()
  gap = np.array([0.5, 2.0, 1.5])
  scores = np.concatenate([gap, gap])[:, None] * [1.0, 0.0]
  table = dataclasses.replace(table, kind=Feedback.SCORE, feedback=scores)
  got = b.optimum("pro", table, rate=0.5, start=t.REFERENCE, sft_coef=0.0)
  b.near(got[:-1] - got[1:], t.logit(t.CHAIN) / gap)


@pytest.mark.parametrize(
  "name, keywords, want",
  [
    # K w, w = softmax(scores / alpha)
    ("nca", {"alpha": 0.5}, np.log(3 * t.tilted(np.ones(3), LISTED / 0.5))),
    ("lipo", {"loss": "point_sigmoid"}, t.logit(LISTED)),
    ("lipo", {"loss": "point_mse"}, t.logit(LISTED)),
  ],
)
def test_absolute_rewards(name, keywords, want):
  """beta u itself, not up to a constant.

  That can hold for all items of a list where other texts can make up for what
  they gain or lose: two arms are in no list.
  """
  got = b.optimum(
    name, t.whole_list(LISTED), rate=1.0, reference=WIDE, beta=2.0, **keywords
  )
  u = got - np.log(WIDE)
  b.near(2.0 * u[:3], want)


def test_nca_chosen_reward_rises_to_log_2():
  """w = (1, 0): beta u_w = log(2 * 1), and beta u_l falls for ever."""
  arms, order = np.array([[0, 1]]), np.array([[1.0, 0.0]])
  table = t.Table(Feedback.ORDER, arms, order, np.ones(1))
  loss = b.objective("nca", table, reference=WIDE, beta=2.0)
  seen = b.follow(loss, b.logits(WIDE), rate=1.0, steps=(1_000, 10_000))
  early, late = (2.0 * (at["policy"] - np.log(WIDE)) for at in seen)
  assert abs(late[0] - np.log(2)) < abs(early[0] - np.log(2)) < 0.01
  assert late[1] < early[1] - 2.0 < -5.0


def winning(wins, mass) -> np.ndarray:
  """P(each arm beats a sample of mass)."""
  return wins @ mass


def self_play(wins) -> t.Table:
  """Two samples of the reference, each with its win rate against it."""
  table = t.tuples(winning(wins, t.REFERENCE), 2)
  weight = np.prod(t.REFERENCE[table.arms], axis=1)
  return dataclasses.replace(table, kind=Feedback.PROBABILITY, weight=weight)


@pytest.mark.parametrize("eta", [0.05, 0.1, 2.0])
def test_sppo(eta):
  """Close to reference * exp(eta P) for small eta.

  The regression wants u = eta a, a = P - 1/2, which is no log-ratio of two
  distributions; what is left over is Lagrange's: u - c e^u = eta a, with c < 0
  such that the probabilities add up to 1. Against the closed form u = eta a -
  log Z that is off by c e^u + log Z = -eta^3 Var(a) a / 2, up to a relative
  error of the order eta max|a| < eta.
  """
  a = winning(t.CYCLIC, t.REFERENCE) - 0.5
  got = b.optimum("sppo", self_play(t.CYCLIC), rate=0.2, eta=eta)
  u = got - np.log(t.REFERENCE)

  def shifted(c):
    return np.array(
      [t.zero_of(lambda v: v - c * np.exp(v) - eta * x, -5, 5) for x in a]
    )

  c = t.zero_of(lambda c: t.REFERENCE @ np.exp(shifted(c)) - 1, -3.0, 0.0)
  b.near(u, shifted(c))
  if eta < 1:
    variance = t.REFERENCE @ a**2  # its mean is 0: P(mu beats mu) = 1/2
    off = u - (np.log(t.tilted(t.REFERENCE, eta * a)) - np.log(t.REFERENCE))
    want = -(eta**3) * variance * a / 2
    np.testing.assert_allclose(off, want, rtol=0, atol=eta * abs(want).max())


def test_dno_follows_the_win_rates():
  """eta h = difference of P(beating a sample of the iterate)."""
  got = b.optimum("dno", self_play(t.CYCLIC), rate=2.0, eta=0.5)
  wins = winning(t.CYCLIC, t.REFERENCE)
  b.near(got, np.log(t.tilted(t.REFERENCE, wins / 0.5)))
