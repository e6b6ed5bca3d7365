"""Pair losses without a closed form for many arms: one pair of two.

The policy is one number, z = log p_0 - log p_1. Arm 0 wins with probability P;
each case writes out the slope of the expected loss in z by hand, and the method
has to stop at its root. log p_0 = log sigma(z) has the slope 1 - p_0 and log
p_1 the slope -p_0. Start and reference are 1/2, so h = z.
"""

import dataclasses

import numpy as np
import pytest

from tests.optima import bandit as b
from tests.optima import tables as t
from tests.optima.tables import sigma
from xpo_jax.types import Feedback

HALF = np.array([0.5, 0.5])
P, Q = 0.8, 0.2


def bell(x):
  """sigma'."""
  return sigma(x) * sigma(-x)


def u(z):
  """Log-ratios of both arms."""
  return np.log(2) - np.logaddexp(0, -z), np.log(2) - np.logaddexp(0, z)


def cpo(z):
  contrast = 3 * (sigma(3 * z) - P)  # P softplus(-3z) + Q softplus(3z)
  return contrast + 0.5 * (sigma(z) - P)


def orpo(z):
  """The log-odds of p_0 and p_1 are z and -z: their difference is 2 z."""
  return 0.4 * 2 * (sigma(2 * z) - P) + (sigma(z) - P)


def simpo(z):
  """P softplus(gamma - 2z) + Q softplus(gamma + 2z), gamma = 1."""
  return 2 * (Q * sigma(1 + 2 * z) - P * sigma(1 - 2 * z))


def rrhf(z):
  """While p_0 > 1/2 only flipped labels violate the order."""
  return Q * 0.7 + (sigma(z) - P)


def dpop(z):
  """The loser's log-ratio is negative: it is charged where arm 1 'wins'."""
  flipped = -z + 2.0 * u(z)[1]
  return -P * sigma(-z) + Q * sigma(-flipped) * (1 + 2.0 * sigma(z))


def tdpo2(z):
  """Both KLs are the same number, but only the rejected one has a slope."""
  kl = sigma(z) - 0.5  # slope of KL(reference || p)
  return -P * sigma(-z) * (1 - 0.9 * kl) + Q * sigma(z) * (1 + 0.9 * kl)


def apo_down(z):
  """P [sigma(2 u_0) + sigma(-2 z)] + Q [sigma(2 u_1) + sigma(2 z)]."""
  high, low = u(z)
  chosen = P * bell(2 * high) * sigma(-z) - Q * bell(2 * low) * sigma(z)
  return 2 * (chosen - (P - Q) * bell(2 * z))


def gated_cringe(z):
  """g(z) P (1 + a) softplus(-z) + g(-z) Q (1 + a) softplus(z).

  The gate g(m) = sigma((b - m) / T) has b = 1, T = 2.
  """
  gate, closed = sigma((1 - z) / 2), sigma((1 + z) / 2)
  right = -gate * sigma(-z) - bell((1 - z) / 2) / 2 * np.logaddexp(0, -z)
  wrong = closed * sigma(z) + bell((1 + z) / 2) / 2 * np.logaddexp(0, z)
  return P * right + Q * wrong


def kl_to(reference):
  def field(log_policy):
    kl = np.log(reference) @ reference - reference @ log_policy
    return {"token_kl": kl + np.zeros((2, 2, 1))}

  return field


def other_arm(log_policy):
  """The likeliest other token, of winner and loser."""
  return {"contrast_logps": log_policy[np.array([[1, 0], [0, 1]])][..., None]}


GATE = {"alpha": 0.3, "gate_center": 1.0, "gate_temperature": 2.0}


@pytest.mark.parametrize(
  "name, keywords, slope",
  [
    ("cpo", {"beta": 3.0, "nll_coef": 0.5}, cpo),
    ("orpo", {"odds_coef": 0.4}, orpo),
    ("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.5}, simpo),
    ("rrhf", {"rank_coef": 0.7}, rrhf),
    ("dpop", {"beta": 1.0, "penalty": 2.0}, dpop),
    ("tdpo2", {"beta": 1.0, "alpha": 0.9, "fields": kl_to(HALF)}, tdpo2),
    ("apo_down", {"beta": 2.0}, apo_down),
    ("pairwise_cringe", GATE | {"fields": other_arm}, gated_cringe),
    (
      "pairwise_cringe",
      GATE
      | {"gate_center": 0.0, "gate_temperature": 1.0}
      | {"gate_stop_grad": True, "fields": other_arm},
      # P sigma(-z)^2 = Q sigma(z)^2
      lambda z: z - t.logit(P) / 2,
    ),
    # two equal weights Delta: DPO
    ("lipo", {"beta": 2.0, "loss": "lambda"}, lambda z: z - t.logit(P) / 2),
  ],
)
def test_root_of_the_slope(name, keywords, slope):
  table = t.chain([P])
  if name in ("rrhf", "lipo"):
    table = dataclasses.replace(table, kind=Feedback.SCORE)
  got = b.optimum(name, table, rate=0.1, start=HALF, reference=HALF, **keywords)
  want = t.zero_of(slope, 0.05, 2.5)
  b.near(got[0] - got[1], want)


def test_aot_matches_the_larger_gap_with_the_larger_reference_gap():
  """beta (z - |c|) = log-odds, c = the reference's gap; DPO has c itself.

  The batch holds both orders of the pair: gaps z and -z meet c and -c, sorted.
  So it matters on which side of 1/2 the policy is: here it starts above.
  """
  reference, start = np.array([0.3, 0.7]), np.array([0.6, 0.4])
  c, table = np.log(0.3 / 0.7), t.chain([P])
  for name, shift in (("aot", -c), ("dpo", c)):
    got = b.optimum(
      name, table, rate=0.2, start=start, reference=reference, beta=2.0
    )
    b.near(got[0] - got[1], shift + t.logit(P) / 2)
