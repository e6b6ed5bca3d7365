"""SPPO: log-ratios are pulled to eta (P - 1/2)."""

import numpy as np

from tests.methods import inputs
from tests.methods import tokens as t
from xpo_jax.types import Feedback


def golden(wins=((0.8, 0.3), (0.8, 0.3))):
  pairs = inputs.golden_pairs()
  return pairs.replace(
    feedback=pairs.feedback * 0 + np.array(wins),
    feedback_kind=Feedback.PROBABILITY,
  )


def samples(u, wins):
  reference = np.full((1, len(u), 2), -1.5)
  return t.from_arrays(
    Feedback.PROBABILITY,
    [wins],
    policy_logps=reference + np.asarray(u)[None, :, None] / 2,
    reference_logps=reference,
  )


def test_golden():
  got = t.per_prompt("sppo", golden())
  u = np.array([[1.0, -1.0], [-1.0, 0.5]])
  t.close(got, 0.5 * np.sum((u - [300.0, -200.0]) ** 2, -1), atol=1e-6)
  t.close(got, [64501, 65400.625], atol=1e-6)
  t.close(got.mean(), 64950.8125, atol=1e-6)


def test_policy_at_the_reference():
  got = t.per_prompt("sppo", samples([0.0, 0.0], [0.8, 0.3]), eta=7.0)
  t.close(got, [0.5 * 7**2 * (0.3**2 + 0.2**2)])


def test_the_minimum_is_at_the_wanted_ratio():
  x = samples([7 * 0.3, -7 * 0.2], [0.8, 0.3])
  t.close(t.per_prompt("sppo", x, eta=7.0), [0.0])
  t.close(t.gradient("sppo", x, eta=7.0), np.zeros((1, 2, 2)))


def test_all_samples_of_a_prompt():
  """A mean over those present; two of them are the paper's best and worst."""
  x = samples([0.4, 9.0, -0.1, 0.3], [0.8, 0.9, 0.3, 0.55])
  x = t.absent(x, (0, 1))
  want = [(0.4 - 0.6) ** 2, (-0.1 + 0.4) ** 2, (0.3 - 0.1) ** 2]
  t.close(t.per_prompt("sppo", x, eta=2.0), [np.mean(want)])


def test_gradient():
  x = golden()
  slope = np.array([[1.0 - 0.6, -1.0 + 0.4], [-1.0 - 0.6, 0.5 + 0.4]])
  got = t.gradient("sppo", x, eta=2.0)
  t.close(got, slope[..., None] * np.asarray(x.completion_mask) / 2)
  short = samples([0.4, -0.3], [0.8, 0.3])
  t.check_gradient("sppo", short, eta=2.0)
