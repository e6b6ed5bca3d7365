"""Pair losses: the optimum of many pairs, and each pair's own.

With labels of P(i beats j) = sigma(r_i - r_j) on all pairs, a loss that fits
that probability has one optimum whatever pairs are drawn. On a chain of pairs
every gap h between neighbours is free, so a loss shows its own best h.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.optima import bandit as b
from tests.optima import tables as t
from xpo_jax.types import Feedback

BETA = 0.7
RATE = 0.5 / BETA**2  # a loss bends 2 BETA^2 a pair at most: steps are stable
R = t.REWARDS
LENGTHS = np.array([1, 3, 2, 2])
UNIFORM = np.full(4, 0.25)


def collision(log_policy):
  mean = jax.nn.logsumexp(2 * log_policy)
  return {"log_collision": jnp.full((12, 2, 1), mean)}


@pytest.mark.parametrize(
  "name, keywords, want",
  [
    ("dpo", {}, t.tilted(t.REFERENCE, R / BETA)),
    ("gpo", {"f": "savage"}, t.tilted(t.REFERENCE, R / BETA)),
    ("gpo", {"f": "exponential"}, t.tilted(t.REFERENCE, R / BETA / 2)),
    # a weight that does not depend on the label
    ("wpo", {"fields": collision}, t.tilted(t.REFERENCE, R / BETA)),
    (
      "h_dpo",
      {"alpha": 0.8},
      t.tilted(t.REFERENCE ** (1 / 0.8), R / (0.8 * BETA)),
    ),
    (
      "r_dpo",
      {"alpha": 0.3, "fields": lambda _: {"lengths": LENGTHS}},
      t.tilted(t.REFERENCE, (R - 0.3 * LENGTHS) / BETA),
    ),
  ],
)
def test_bradley_terry_gives_the_regularised_optimum(name, keywords, want):
  """beta u = r + constant, or that of the objective a method regularises.

  exponential: its best margin is half the log-odds. h_dpo: beta (alpha log p -
  log reference) = r. r_dpo: the rewards are r - alpha times the length.
  """
  table = t.pairs(t.bradley_terry())
  got = b.optimum(name, table, rate=RATE, beta=BETA, **keywords)
  b.near(got, np.log(want))


def test_rso_and_its_gamma():
  got = b.optimum("rso", t.pairs(t.bradley_terry()), rate=RATE, gamma=BETA)
  b.near(got, np.log(t.tilted(t.REFERENCE, R / BETA)))


def test_robust_dpo_sees_through_flipped_labels():
  """The optimum of clean labels, where DPO's shrinks towards the reference."""
  clean = t.bradley_terry()
  table = t.pairs(0.8 * clean + 0.2 * clean.T)
  want = np.log(t.tilted(t.REFERENCE, R / BETA))
  robust = {"rate": RATE, "beta": BETA, "label_smoothing": 0.2}
  b.near(b.optimum("robust_dpo", table, **robust), want)
  fooled = b.optimum("dpo", table, rate=RATE, beta=BETA)
  gap = abs(t.gaps(fooled))
  assert np.all(gap < 0.8 * abs(t.gaps(want)))


def test_d2o_with_one_sample_a_prompt():
  """One sample, alpha = beta: a pair, so the optimum is DPO's."""
  table = t.pairs(t.bradley_terry())
  signs = np.tile([1.0, -1.0], (12, 1))
  table = dataclasses.replace(table, kind=Feedback.BINARY, feedback=signs)
  got = b.optimum("d2o", table, rate=RATE, beta=BETA, alpha=BETA)
  b.near(got, np.log(t.tilted(t.REFERENCE, R / BETA)))


@pytest.mark.parametrize("wins", [t.CYCLIC, t.bradley_terry()])
def test_ipo_on_any_preference(wins):
  """u_i = (P(i beats mu) - 1/2) / tau + constant, rewards or not."""
  tau = 0.6
  table = t.pairs(wins, t.DRAWS)
  got = b.optimum("ipo", table, rate=0.5, tau=tau)
  b.near(got, np.log(t.tilted(t.REFERENCE, wins @ t.DRAWS / tau)))


SURE = np.ones(3)
E = 0.1  # label smoothing, and EXO's eps


@pytest.mark.parametrize(
  "name, wins, keywords, want",
  [
    ("dpo", SURE, {"label_smoothing": E}, t.logit(1 - E)),
    ("dpo", SURE, {"label_smoothing": E, "offset": 0.4}, 0.4 + t.logit(1 - E)),
    ("dpo", t.CHAIN, {"label_smoothing": E}, t.logit(E + 0.8 * t.CHAIN)),
    ("infonca", t.CHAIN, {}, t.logit(t.CHAIN)),
    ("gpo", t.CHAIN, {"f": "logistic"}, t.logit(t.CHAIN)),
    ("gpo", t.CHAIN, {"f": "exponential"}, t.logit(t.CHAIN) / 2),
    ("gpo", t.CHAIN, {"f": "savage"}, t.logit(t.CHAIN)),
    ("gpo", t.CHAIN, {"f": "squared"}, 2 * t.CHAIN - 1),
    ("gpo", t.CHAIN, {"f": "truncated_quadratic"}, 2 * t.CHAIN - 1),
    ("gpo", SURE, {"f": "squared"}, SURE),
    ("exo", SURE, {"eps": E}, t.logit(1 - E)),
    ("exo", t.CHAIN, {"eps": E}, (2 * t.CHAIN - 1) * t.logit(1 - E)),
  ],
)
def test_best_margin_of_each_pair(name, wins, keywords, want):
  """beta h of two neighbours whose lower arm wins with probability P.

  A proper loss fits the (smoothed) P: its log-odds; the exponential one half of
  them. A square fits the mean label 2 P - 1. EXO's targets average in log
  space.
  """
  got = b.optimum(name, t.chain(wins), rate=RATE, beta=BETA, **keywords)
  b.near(BETA * t.gaps(got), np.broadcast_to(want, 3))


@pytest.mark.parametrize("wins", [SURE, t.CHAIN])
def test_ipo_stays_at_half_over_tau(wins):
  """h = (2 P - 1) / (2 tau), finite for sure labels."""
  got = b.optimum("ipo", t.chain(wins), rate=0.5, tau=0.25)
  b.near(t.gaps(got), (2 * wins - 1) / 0.5)


def test_simpo_with_smoothing():
  """beta (A_w - A_l) = gamma + log((1 - e) / e), without a reference."""
  keywords = {"beta": BETA, "gamma_beta_ratio": 0.5, "label_smoothing": E}
  fields = lambda _: {"lengths": LENGTHS}
  got = b.optimum(
    "simpo", t.chain(SURE), rate=RATE, start=UNIFORM, fields=fields, **keywords
  )
  mean = got / LENGTHS
  b.near(BETA * (mean[:-1] - mean[1:]), np.full(3, BETA / 2 + t.logit(1 - E)))


@pytest.mark.parametrize(
  "name, keywords, reference",
  [
    ("gpo", {"f": "hinge", "beta": BETA}, t.REFERENCE),
    ("rso", {"loss": "hinge_norm", "gamma": BETA}, t.REFERENCE),
    ("rso", {"loss": "hinge", "gamma": BETA}, UNIFORM),
  ],
)
def test_hinges_only_see_the_likelier_winner(name, keywords, reference):
  """The kink beta h = sign(P - 1/2) is the optimum for every P < 1.

  Steps of a kink do not shrink by themselves: they shrink by 2% each here, so
  that 2,000 of them end within 1e-16 of it.
  """
  wins = np.array([0.6, 0.2, 0.9])
  got = b.optimum(
    name, t.chain(wins), rate=2.0, decay=0.98, start=t.REFERENCE, **keywords
  )
  b.near(BETA * t.gaps(got, reference), [1.0, -1.0, 1.0])


def test_slic_moves_from_its_target_by_the_active_hinges():
  """While S_w - S_l < delta: p = target + sum of (e_w - e_l) / nll_coef."""
  arms = np.array([[*pair, k] for pair in [(0, 1), (2, 3)] for k in range(4)])
  chance = np.array([0.7, 0.3])[arms[:, 0] // 2] * t.DRAWS[arms[:, 2]]
  order = np.tile([1.0, 0.0, 0.0], (8, 1))
  table = t.Table(Feedback.ORDER, arms, order, chance)
  got = b.optimum("slic", table, rate=0.2, delta=3.0, nll_coef=10.0)
  want = t.DRAWS + np.array([0.7, -0.7, 0.3, -0.3]) / 10
  assert np.log(want[0] / want[1]) < 3 and np.log(want[2] / want[3]) < 3
  b.near(got, np.log(want))


def test_discopop_stops_short():
  """From h = 0 it slides DOWN to a local minimum at beta h = -0.119.

  The root of dl/dz = -(1 - g) sigma(-z) - g e^-z + g (1 - g) (e^-z -
  softplus(-z)) / tau below 0.
  """
  tau = 0.05

  def slope(z):
    g, fast = t.sigma(z / tau), np.exp(-z)
    blend = g * (1 - g) * (fast - np.log1p(fast)) / tau
    return blend - (1 - g) * t.sigma(-z) - g * fast

  want = t.zero_of(slope, -0.2, 0.0)
  assert abs(want + 0.1186) < 5e-5
  got = b.optimum("discopop", t.chain(SURE), rate=0.1, beta=1.0, tau=tau)
  b.near(t.gaps(got), np.full(3, want))


@pytest.mark.parametrize("name", ["dpo", "aot_unpaired"])
def test_runs_away_where_ipo_stays(name):
  """Sure labels: DPO's margin z = beta h grows as log t, for ever.

  dh/dt = 2 beta sigma(-z) for two arms, so z + e^z = 2 beta^2 t + 1 exactly in
  the limit of small steps, and finite steps are ahead by less than the first.
  Optimal transport between single pairs is DPO.
  """
  half = np.array([0.5, 0.5])
  loss = b.objective(name, t.chain([1.0]), reference=half, beta=BETA)
  steps = (100, 1_000, 10_000)
  seen = b.follow(loss, b.logits(half), rate=0.1, steps=steps)
  z = [BETA * t.gaps(at["policy"], half)[0] for at in seen]
  time = 2 * BETA**2 * 0.1 * np.array(steps)
  want = [t.zero_of(lambda z: z + np.exp(z) - 1 - at, 0, 50) for at in time]
  np.testing.assert_allclose(z, want, rtol=0, atol=0.1 * BETA**2)
  assert np.all(np.diff(z) > 2.2)  # log 10 = 2.3 more, ever ten times later


def test_ipo_on_the_same_labels():
  half = np.array([0.5, 0.5])
  got = b.optimum("ipo", t.chain([1.0]), rate=0.2, reference=half, tau=0.1)
  b.near(t.gaps(got, half), [5.0])
