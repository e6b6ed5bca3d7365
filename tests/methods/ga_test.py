"""Gradient ascent: the sum of log-probs itself."""

import numpy as np

from tests.methods import tokens as t
from xpo_jax.types import Feedback

LOGPS = [[[-0.5, -1.5, -3.0]], [[-0.2, -0.4, 7.0]]]
MASK = [[[1, 1, 1]], [[1, 1, 0]]]


def forget(labels):
  labels = np.asarray(labels, float)[:, None]
  return t.from_arrays(Feedback.BINARY, labels, mask=MASK, policy_logps=LOGPS)


def test_the_log_prob_falls():
  x = forget([-1, -1])
  t.close(t.per_prompt("ga", x), [-5.0, -0.6])
  t.close(t.gradient("ga", x), np.array(MASK) / 2)


def test_only_undesirable_rows_count():
  out = t.run("ga", forget([-1, 1]))
  t.close(out.loss, [-5.0, 0.0])
  np.testing.assert_array_equal(out.weight, [1.0, 0.0])
