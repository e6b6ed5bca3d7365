"""Process reward model: a label at the end of each step, NaN elsewhere."""

import numpy as np
import pytest

from tests.methods import tokens as t
from xpo_jax.types import Feedback

NONE = np.nan  # no step ends here
Z = [
  [[0.3, 1.1, -0.7, 2.0], [0.9, -0.4, 5.0, 6.0]],
  [[-1.2, 0.8, 0.1, 9.0], [3.0, 3.0, 3.0, 3.0]],
]
C = [
  [[NONE, 1.0, NONE, 0.0], [0.3, NONE, NONE, NONE]],
  [[1.0, 0.0, NONE, NONE], [NONE, NONE, NONE, NONE]],
]
MASK = [[[1, 1, 1, 1], [1, 1, 0, 0]], [[1, 1, 1, 0], [1, 1, 1, 1]]]


def solutions():
  return t.from_arrays(
    Feedback.BINARY,
    [[1.0, -1.0], [-1.0, 1.0]],
    mask=MASK,
    token_scores=Z,
    token_feedback=C,
  )


def bce(z, c):
  return -c * np.log(t.sigma(z)) - (1 - c) * np.log(t.sigma(-z))


def test_one_mean_over_all_labelled_steps():
  out = t.run("rm_prm", solutions())
  first = bce(1.1, 1.0) + bce(2.0, 0.0) + bce(0.9, 0.3)
  second = bce(-1.2, 1.0) + bce(0.8, 0.0)
  t.close(out.loss, [first, second])
  np.testing.assert_array_equal(out.weight, [3.0, 2.0])
  t.close(t.value("rm_prm", solutions()), (first + second) / 5)
  # z > 0 against c > .5: right, wrong, wrong | wrong, wrong.
  t.close(out.metrics["rewards/accuracy"], [1 / 3, 0.0])


def test_gradient_reaches_labelled_steps_only():
  grad = t.gradient("rm_prm", solutions(), "token_scores")
  label = np.array(C)
  want = np.where(np.isnan(label), 0.0, t.sigma(Z) - np.nan_to_num(label)) / 5
  t.close(grad, want)


@pytest.mark.parametrize(
  "aggregate, want", [("prod", 0.9 * 0.8 * 0.95), ("min", 0.8), ("last", 0.95)]
)
def test_solution_score(aggregate, want):
  p = np.array([0.9, 0.3, 0.8, 0.95, 0.1])
  x = t.from_arrays(
    Feedback.BINARY,
    [[1.0]],
    token_scores=[[np.log(p / (1 - p))]],
    token_feedback=[[[1.0, NONE, 1.0, 1.0, NONE]]],
  )
  out = t.run("rm_prm", x, aggregate=aggregate)
  t.close(out.metrics["rewards/solution"], [want])
  t.close(out.loss, [-np.log(0.9) - np.log(0.8) - np.log(0.95)])
