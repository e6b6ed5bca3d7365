"""f-DPO: the policy that trades the reward against each divergence."""

import numpy as np
import pytest

from tests.optima import bandit as b
from tests.optima import tables as t

BETA = 0.7
SCALE = t.REWARDS / BETA
ALPHA = 0.4

# f of D_f = E_reference f(v), v = p / reference; the v of a given slope f'(v) =
# x; and the largest x that has one.
DIVERGENCES = {
  "reverse_kl": (lambda v: v * np.log(v), lambda x: np.exp(x - 1), 5.0),
  "forward_kl": (lambda v: -np.log(v), lambda x: -1 / x, 0.0),
  "jsd": (
    lambda v: v * np.log(v) - (v + 1) * np.log((v + 1) / 2),
    lambda x: 1 / (2 * np.exp(-x) - 1),  # f' = log(2 v / (1 + v))
    np.log(2),
  ),
  "alpha": (
    lambda v: (v ** (1 - ALPHA) - (1 - ALPHA) * v - ALPHA) / (ALPHA**2 - ALPHA),
    lambda x: (1 - ALPHA * x) ** (-1 / ALPHA),  # f' = (1 - v^-alpha) / alpha
    1 / ALPHA,
  ),
}


def regularised(divergence) -> np.ndarray:
  """p with beta f'(p / reference) = r + c, and c such that it adds up to 1."""
  _, density, top = DIVERGENCES[divergence]
  mass = lambda c: t.REFERENCE * density(SCALE + c)
  top = top - SCALE.max() - 1e-9
  return mass(t.zero_of(lambda c: mass(c).sum() - 1, -50.0, top))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_optimum(divergence):
  got = b.optimum(
    "f_dpo",
    t.pairs(t.bradley_terry()),
    rate=1.0,
    beta=BETA,
    divergence=divergence,
    alpha=ALPHA,
  )
  b.near(got, np.log(regularised(divergence)))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_it_maximises_reward_minus_divergence(divergence):
  """E_p r - beta D_f(p, reference), against 1,000 policies around it."""
  f = DIVERGENCES[divergence][0]
  value = lambda p: p @ t.REWARDS - BETA * f(p / t.REFERENCE) @ t.REFERENCE
  best = regularised(divergence)
  noise = np.random.default_rng(0).normal(scale=0.02, size=(1_000, 4))
  others = best * np.exp(noise)
  others /= others.sum(1, keepdims=True)
  assert value(best) > value(others).max()
