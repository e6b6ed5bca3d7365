"""Methods without a fixed point: where they push, how fast, what stops them.

One unwanted text of two, p its probability. For a loss f(S) of its log-prob the
logits move apart by 2 f'(S) (1 - p), so dS/dt = -2 f'(S) (1 - p)^2, t = step
size times steps: late, when p is small, -2 f'(S).
"""

import jax
import numpy as np
import pytest

from tests.optima import bandit as b
from tests.optima import tables as t
from xpo_jax.types import Feedback

BETA = 0.7
HALF = np.array([0.5, 0.5])
UNWANTED = t.Table(
  Feedback.BINARY, np.array([[0]]), np.array([[-1.0]]), np.ones(1)
)
RATE = 0.1


def slope(name, start=HALF, **keywords) -> np.ndarray:
  """Of the expected loss in the logits."""
  loss = b.objective(name, UNWANTED, reference=HALF, **keywords)
  return np.asarray(b.compiled(jax.grad(loss))(b.logits(start))["policy"])


def fall(name, steps, **keywords) -> np.ndarray:
  """S after each number of steps, from p = 1/2."""
  loss = b.objective(name, UNWANTED, reference=HALF, **keywords)
  seen = b.follow(loss, b.logits(HALF), rate=RATE, steps=steps)
  return np.array([at["policy"][0] for at in seen])


def test_gradient_ascent_has_no_floor():
  """f' = 1: 2 nats less per unit of time, for ever."""
  s = fall("ga", (500, 1_000, 1_500))
  b.near(np.diff(s), np.full(2, -2 * RATE * 500))


@pytest.mark.parametrize(
  "name, keywords, growing, pace",
  [
    # f' = 2 sigma(beta u): e^(-beta u) gains 4 beta a unit of time
    ("npo", {"beta": BETA}, lambda u: np.exp(-BETA * u), 4 * BETA),
    # f' = beta sigma(beta u) sigma(-beta u): it gains 2 beta^2
    (
      "kto",
      {"beta": BETA, "z0_mode": "zero"},
      lambda u: np.exp(-BETA * u),
      2 * BETA**2,
    ),
    # f' = p / (1 - p): 1 / p gains 2
    ("unlikelihood", {}, lambda u: 2 * np.exp(-u), 2.0),
  ],
)
def test_the_others_slow_down(name, keywords, growing, pace):
  """The log-prob falls without end, but only as the logarithm of time.

  What is left of the early steps is of the order log(t) / t, 1% at t = 10^3.
  """
  steps = (10_000, 20_000)
  u = fall(name, steps, **keywords) - np.log(0.5)
  assert u[1] < u[0] < -4
  np.testing.assert_allclose(
    np.diff(growing(u)) / (RATE * 1e4), pace, rtol=0.01
  )


def test_npo_starts_as_gradient_ascent_and_fades():
  """Its slope is gradient ascent's times 2 sigma(beta u)."""
  b.near(slope("npo", beta=BETA), slope("ga"))
  gone = np.array([0.5 * np.exp(-20.0), 1.0])
  share = slope("npo", gone, beta=BETA) / slope("ga", gone)
  np.testing.assert_allclose(share, 2 * t.sigma(-20 * BETA), rtol=1e-6)


LIKED = np.array([0.49, 0.51, 0.2, 0.05])
# Arm 1 beats each other arm a little more often than not.
UPSET = np.full((4, 4), 0.5) + np.diag([-0.5] * 4)
UPSET[1, [0, 2, 3]], UPSET[[0, 2, 3], 1] = 0.52, 0.48


@pytest.mark.parametrize(
  "name, table, keywords, pull",
  [
    (
      "kto",
      t.labels(LIKED, np.full(4, 0.25)),
      {"z0_mode": "zero"},
      (1 - 2 * LIKED) / 4,
    ),
    # lost less won, of 12 equally likely ordered pairs
    (
      "apo_zero",
      t.pairs(UPSET, np.full(4, 0.25)),
      {},
      np.array([-0.04, 0.12, -0.04, -0.04]) / -6,
    ),
  ],
)
def test_bang_bang(name, table, keywords, pull):
  """Expected losses linear in sigma(beta u): pull * sigma(beta u).

  So no log-ratio is a fixed point: with a majority against it an arm falls for
  ever, else it rises until it has all the mass, however slight the majority.
  """
  loss = b.objective(name, table, beta=2.0, **keywords)
  slopes = np.asarray(b.compiled(jax.grad(loss))(b.logits())["policy"])
  pull = pull * 2.0 / 4  # sigma' = 1/4 at u = 0
  b.near(slopes, pull - t.REFERENCE * pull.sum())
  seen = b.follow(loss, b.logits(), rate=1.0, steps=(2_000, 20_000))
  early, late = (at["policy"] for at in seen)
  falls = [0, 2, 3]
  assert np.all(late[falls] < early[falls] - 0.5)
  assert np.exp(late[1]) > np.exp(early[1]) > 0.5


@pytest.mark.parametrize("side", [-1, 1])
def test_kto_saturates_on_both_sides(side):
  """20 nats from the reference no slope is left, right or wrong.

  It is -beta sigma'(beta u) for a wanted text, sigma' = e^(-20 beta) to 1e-6.
  """
  far = np.array([0.5 * np.exp(-20.0), 1.0])
  start, reference = (far, HALF) if side < 0 else (HALF, far)
  one = np.array([[1.0]])
  table = t.Table(Feedback.BINARY, np.array([[0]]), one, np.ones(1))
  loss = b.objective(
    "kto", table, reference=reference, beta=BETA, z0_mode="zero"
  )
  found = b.compiled(jax.grad(loss))(b.logits(start))["policy"]
  other = start[1]  # 1 - p of the text
  want = BETA * np.exp(-20 * BETA) * other * np.array([-1.0, 1.0])
  np.testing.assert_allclose(found, want, rtol=1e-5)
