"""D2O: the mean of self samples stands in for the chosen side."""

import numpy as np

from tests.methods import inputs
from tests.methods import tokens as t
from xpo_jax.types import Feedback


def batch(*u):
  """Log-ratios of self samples, then of the rejected completion."""
  u = np.asarray(u, float)
  reference = np.tile([-9.0, -12.0, -7.0], (len(u), 1))[:, -u.shape[1] :]
  return inputs.from_sums(
    reference + u,
    reference=reference,
    lengths=[[3, 4, 5][-u.shape[1] :]] * len(u),
    kind=Feedback.BINARY,
    feedback=[[1.0] * (u.shape[1] - 1) + [-1.0]] * len(u),
  )


def test_golden():
  got = t.per_prompt("d2o", batch([0.4, -0.2, 0.7]))
  t.close(got, [np.log(1 + np.exp(-(0.1 * (0.4 - 0.2) / 2 - 0.1 * 0.7)))])
  t.close(got, [0.7235971131])


def test_two_strengths():
  got = t.per_prompt("d2o", batch([0.4, -0.2, 0.7]), beta=0.5, alpha=2.0)
  t.close(got, [t.softplus(-(0.5 * 0.1 - 2.0 * 0.7))])


def test_one_sample_is_dpo():
  x = batch([1.0, -1.0], [-1.0, 0.5])
  pair = x.replace(feedback_kind=Feedback.ORDER, feedback=(1 + x.feedback) / 2)
  got = t.per_prompt("d2o", x, beta=0.3, alpha=0.3)
  t.close(got, t.run("dpo", pair, beta=0.3).loss)


def test_policy_at_the_references():
  got = t.per_prompt("d2o", batch([0.0, 0.0, 0.0]), beta=0.4, alpha=3.0)
  t.close(got, [np.log(2)])


def test_gradient():
  x = batch([0.4, -0.2, 0.7])
  slope = t.sigma(-(0.5 * 0.1 - 2.0 * 0.7))
  want = np.array([-0.5 / 2 * slope, -0.5 / 2 * slope, 2.0 * slope])
  got = t.gradient("d2o", x, beta=0.5, alpha=2.0)
  t.close(got, want[None, :, None] * np.asarray(x.completion_mask))
  t.check_gradient("d2o", x, beta=0.5, alpha=2.0)


def test_absent_samples_leave_the_mean():
  x = batch([0.4, -0.2, 0.7], [0.4, -0.2, 0.7], [0.4, -0.2, 0.7])
  x = t.absent(x, (0, 1), (1, 0), (1, 1), (2, 2))
  out = t.run("d2o", x)
  t.close(out.loss, [t.softplus(-(0.04 - 0.07)), 0.0, 0.0])
  np.testing.assert_array_equal(out.weight, [1.0, 0.0, 0.0])
