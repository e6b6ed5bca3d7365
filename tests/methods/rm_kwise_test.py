"""K-wise reward model: pairs of a ranked list, one example a prompt."""

import numpy as np
import pytest

from tests.methods import tokens as t
from xpo_jax.types import Feedback

R = [1.2, 0.3, -0.4, 0.9]  # methods.md 16.2, best to worst [0, 3, 1, 2]


def lists(scores, feedback):
  return t.from_arrays(Feedback.SCORE, feedback, scores=scores)


def test_golden():
  gaps = [0.3, 0.9, 1.6, 0.6, 1.3, 0.7]  # 0>3, 0>1, 0>2, 3>1, 3>2, 1>2
  got = t.per_prompt("rm_kwise", lists([R], [[4.0, 2.0, 1.0, 3.0]]))
  t.close(got, [np.mean([np.log(1 + np.exp(-g)) for g in gaps])])
  t.close(got, [0.3601820522])


def test_a_pair_is_bradley_terry():
  scores = [[0.8, -0.3], [0.1, 1.4]]
  order = [[1.0, 0.0], [1.0, 0.0]]
  pair = t.from_arrays(Feedback.ORDER, order, scores=scores)
  want = t.per_prompt("rm_bt", pair)
  t.close(t.per_prompt("rm_kwise", lists(scores, order)), want)


def test_ties_make_no_pair():
  got = t.per_prompt("rm_kwise", lists([[0.5, 0.2, 0.1]], [[1.0, 1.0, 0.0]]))
  t.close(got, [(t.softplus(-0.4) + t.softplus(-0.1)) / 2])


@pytest.mark.parametrize("weighting", ["prompt_mean", "pair_mean"])
def test_a_prompt_of_equals_counts_nowhere(weighting):
  x = lists([[0.5, 0.2], [1.0, 2.0]], [[1.0, 0.0], [3.0, 3.0]])
  out = t.run("rm_kwise", x, pair_weighting=weighting)
  np.testing.assert_array_equal(out.weight, [1.0, 0.0])
  t.close(out.loss, [t.softplus(-0.3), 0.0])


def test_weighting_of_prompts_with_many_and_few_pairs():
  x = lists(
    [[0.5, 0.2, 0.1], [1.0, 2.0, 9.0]], [[3.0, 2.0, 1.0], [1.0, 0.0, 0.0]]
  )
  x = t.absent(x, (1, 2))
  many = [t.softplus(-0.3), t.softplus(-0.4), t.softplus(-0.1)]
  few = t.softplus(1.0)
  t.close(t.value("rm_kwise", x), (np.mean(many) + few) / 2)
  got = t.value("rm_kwise", x, pair_weighting="pair_mean")
  t.close(got, (np.sum(many) + few) / 4)


def test_gradient():
  x = lists([R, [0.3, 0.2, -1.0, 0.5]], [[4.0, 2.0, 1.0, 3.0], [1, 1, 2, 0]])
  t.check_gradient("rm_kwise", x, "scores")
  t.check_gradient("rm_kwise", x, "scores", pair_weighting="pair_mean")
