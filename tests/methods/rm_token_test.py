"""Token-level reward model: the sum or mean of token rewards is compared."""

import numpy as np
import pytest

from tests.methods import tokens as t
from xpo_jax.types import Feedback

SCORES = [[[0.5, -0.1, 0.4], [0.2, 0.1, 7.0]]]
MASK = [[[1, 1, 1], [1, 1, 0]]]
GAPS = {"sum": 0.8 - 0.3, "mean": 0.8 / 3 - 0.15}


def pair(kind=Feedback.ORDER, p=1.0):
  return t.from_arrays(kind, [[p, 1 - p]], mask=MASK, token_scores=SCORES)


@pytest.mark.parametrize("aggregate", GAPS)
def test_formula(aggregate):
  gap = GAPS[aggregate]
  got = t.per_prompt("rm_token", pair(), aggregate=aggregate)
  t.close(got, [np.log(1 + np.exp(-gap))])
  soft = t.per_prompt(
    "rm_token", pair(Feedback.PROBABILITY, 0.7), aggregate=aggregate
  )
  t.close(soft, [0.7 * t.softplus(-gap) + 0.3 * t.softplus(gap)])


def test_equals_bradley_terry_on_the_sums():
  bt = t.from_arrays(Feedback.ORDER, [[1.0, 0.0]], scores=[[0.8, 0.3]])
  t.close(t.per_prompt("rm_token", pair()), t.per_prompt("rm_bt", bt))


def test_every_token_shares_the_gradient():
  slope = -t.sigma(-0.5)
  want = [[[slope, slope, slope], [-slope, -slope, 0.0]]]
  t.close(t.gradient("rm_token", pair(), "token_scores"), want)
  t.check_gradient("rm_token", pair(), "token_scores", aggregate="mean")
