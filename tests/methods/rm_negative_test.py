"""Reward model of rejected texts: self samples, then the rejected one."""

import numpy as np

from tests.methods import tokens as t
from xpo_jax.types import Feedback


def batch(*scores):
  feedback = [[1.0] * (len(s) - 1) + [-1.0] for s in scores]
  return t.from_arrays(Feedback.BINARY, feedback, scores=scores)


def test_golden():
  got = t.per_prompt("rm_negative", batch([0.5, 0.2, 0.8, -0.3]))
  t.close(got, [np.log(1 + np.exp(-((0.5 + 0.2 + 0.8) / 3 + 0.3)))])
  t.close(got, [0.3711006659])


def test_one_sample_is_bradley_terry():
  pair = t.from_arrays(Feedback.ORDER, [[1.0, 0.0]], scores=[[0.4, 0.9]])
  t.close(
    t.per_prompt("rm_negative", batch([0.4, 0.9])), t.per_prompt("rm_bt", pair)
  )


def test_absent_samples_leave_the_mean():
  x = batch([0.5, 0.2, 0.8, -0.3], [0.1, 0.6, 0.7, 0.2], [1.0, 2.0, 3.0, 4.0])
  x = t.absent(x, (0, 1), (1, 0), (1, 1), (1, 2), (2, 3))
  out = t.run("rm_negative", x)
  t.close(out.loss, [t.softplus(-(0.65 + 0.3)), 0.0, 0.0])
  np.testing.assert_array_equal(out.weight, [1.0, 0.0, 0.0])


def test_gradient():
  z = 0.8
  want = [[-t.sigma(-z) / 3] * 3 + [t.sigma(-z)]]
  x = batch([0.5, 0.2, 0.8, -0.3])
  t.close(t.gradient("rm_negative", x, "scores"), want)
  t.check_gradient("rm_negative", x, "scores")
