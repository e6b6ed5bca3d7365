"""Data sets as tables of every outcome, and closed forms to compare with."""

import dataclasses
import itertools

import numpy as np

from xpo_jax.types import Feedback

REFERENCE = np.array([0.4, 0.3, 0.2, 0.1])
REWARDS = np.array([0.5, -0.2, 0.9, 0.0])
DRAWS = np.array([0.1, 0.2, 0.3, 0.4])  # a data distribution unlike REFERENCE


@dataclasses.dataclass(frozen=True)
class Table:
  """Every outcome of one draw of data."""

  kind: Feedback
  arms: np.ndarray  # int [B, K]
  feedback: np.ndarray  # [B, K]
  weight: np.ndarray  # [B] probabilities


def sigma(z):
  return 1 / (1 + np.exp(-np.asarray(z, float)))


def logit(p):
  return np.log(p) - np.log1p(-np.asarray(p, float))


def tilted(reference, exponent) -> np.ndarray:
  """Proportional to reference * exp(exponent): the regularised optimum."""
  mass = np.asarray(reference) * np.exp(exponent)
  return mass / mass.sum()


def zero_of(fn, low: float, high: float) -> float:
  """Where a monotone function crosses 0 between low and high, by halving."""
  rises = fn(high) > 0
  assert fn(low) * fn(high) < 0
  for _ in range(200):
    middle = (low + high) / 2
    low, high = (low, middle) if (fn(middle) > 0) == rises else (middle, high)
  return (low + high) / 2


def bradley_terry(rewards=REWARDS) -> np.ndarray:
  """P[i, j] = probability that i beats j."""
  return sigma(rewards[:, None] - rewards[None, :])


# Rock, paper, scissors and a fourth arm: no rewards explain it.
CYCLIC = np.array(
  [
    [0.5, 0.9, 0.2, 0.6],
    [0.1, 0.5, 0.8, 0.7],
    [0.8, 0.2, 0.5, 0.3],
    [0.4, 0.3, 0.7, 0.5],
  ]
)


def pairs(wins, mass=DRAWS) -> Table:
  """Ordered pairs i != j drawn from `mass`, i labelled the winner.

  Args:
    wins: P[i, j] that i beats j.
    mass: of each arm.
  """
  arms = np.array(list(itertools.permutations(range(len(wins)), 2)))
  i, j = arms.T
  weight = mass[i] * mass[j] * wins[i, j]
  order = np.tile([1.0, 0.0], (len(arms), 1))
  return Table(Feedback.ORDER, arms, order, weight / weight.sum())


# P(the lower arm wins) of the pairs (0, 1), (1, 2) and (2, 3): three pairs and
# three degrees of freedom, so that every pair reaches its own optimum.
CHAIN = np.array([0.6, 0.75, 0.9])


def chain(wins=CHAIN) -> Table:
  """Both orders of the pairs of neighbours (k, k + 1), P(k wins) = wins[k]."""
  low = np.arange(len(wins))
  arms = np.concatenate([np.stack([low, low + 1], -1)] * 2)
  arms[len(wins) :] = arms[len(wins) :, ::-1]
  weight = np.concatenate([wins, 1 - np.asarray(wins, float)])
  order = np.tile([1.0, 0.0], (len(arms), 1))
  return Table(Feedback.ORDER, arms, order, weight / weight.sum())


def gaps(log_policy, reference=REFERENCE) -> np.ndarray:
  """h of the pairs of `chain`: differences of log-ratios of neighbours."""
  u = log_policy - np.log(reference)
  return u[:-1] - u[1:]


def rankings(rewards=REWARDS) -> Table:
  """All orders of all arms, Plackett-Luce; scores 3, 2, 1, .. from the best."""
  arms = np.array(list(itertools.permutations(range(len(rewards)))))
  mass = np.exp(rewards)[arms]
  rest = np.cumsum(mass[:, ::-1], axis=1)[:, ::-1]
  scores = np.tile(np.arange(len(rewards))[::-1], (len(arms), 1))
  weight = np.prod(mass / rest, axis=1)
  return Table(Feedback.SCORE, arms, scores.astype(float), weight)


def whole_list(scores) -> Table:
  """One prompt with every arm."""
  arms = np.arange(len(scores))[None]
  return Table(Feedback.SCORE, arms, np.asarray(scores)[None], np.ones(1))


def labels(good, mass) -> Table:
  """Single arms drawn from `mass`, desirable with probability good[arm]."""
  arms = np.tile(np.arange(len(good)), 2)[:, None]
  sign = np.repeat([1.0, -1.0], len(good))[:, None]
  weight = np.concatenate([mass * good, mass * (1 - good)])
  return Table(Feedback.BINARY, arms, sign, weight)


def tuples(rewards, size: int) -> Table:
  """All tuples of `size` samples of one prompt; weights: see `rollout`."""
  arms = np.array(list(itertools.product(range(len(rewards)), repeat=size)))
  weight = np.full(len(arms), np.nan)
  return Table(Feedback.SCORE, arms, np.asarray(rewards)[arms], weight)
