"""DNO: cross entropy of the policy's preference with the wanted one."""

import numpy as np

from tests.methods import inputs
from tests.methods import tokens as t
from xpo_jax.types import Feedback


def golden(r, kind=Feedback.PROBABILITY):
  pairs = inputs.golden_pairs()
  return pairs.replace(
    feedback=pairs.feedback * 0 + np.array([r]), feedback_kind=kind
  )


def samples(u, r, kind=Feedback.SCORE):
  reference = np.full((1, len(u), 2), -1.5)
  return t.from_arrays(
    kind,
    [r],
    policy_logps=reference + np.asarray(u)[None, :, None] / 2,
    reference_logps=reference,
  )


def entropy(z, gap):
  s = t.sigma(gap)
  return s * t.softplus(-z) + (1 - s) * t.softplus(z)


def test_golden():
  got = t.per_prompt("dno", golden([0.9, 0.4]))
  t.close(got, entropy(0.1 * np.array([2.0, -1.5]), 0.5))
  t.close(got, [0.6736470031, 0.7143259475])
  t.close(got.mean(), 0.6939864753)
  t.close(t.per_prompt("dno", golden([0.9, 0.4], Feedback.SCORE)), got)


def test_a_sure_preference_is_dpo():
  got = t.per_prompt("dno", golden([60.0, 0.0], Feedback.SCORE), eta=0.3)
  t.close(got, t.run("dpo", inputs.golden_pairs(), beta=0.3).loss)


def test_the_minimum_is_at_the_rewards_difference():
  x = samples([1.2 / 0.4, 0.3 / 0.4, -0.5 / 0.4], [1.2, 0.3, -0.5])
  t.close(t.gradient("dno", x, eta=0.4), np.zeros((1, 3, 2)))
  equal = samples([0.7, 0.7], [0.2, 0.2])
  t.close(t.gradient("dno", equal), np.zeros((1, 2, 2)))
  t.close(t.per_prompt("dno", equal), [np.log(2)])


def test_a_list_is_a_mean_over_its_pairs():
  u, r = np.array([0.4, 9.0, -0.1, 0.3]), np.array([0.8, 0.9, 0.3, 0.55])
  x = t.absent(samples(u, r, Feedback.PROBABILITY), (0, 1))
  want = [
    entropy(2 * (u[i] - u[j]), r[i] - r[j]) for i, j in [(0, 2), (0, 3), (2, 3)]
  ]
  t.close(t.per_prompt("dno", x, eta=2.0), [np.mean(want)])
  alone = t.absent(x, (0, 2), (0, 3))
  np.testing.assert_array_equal(t.run("dno", alone).weight, [0.0])


def test_gradient():
  x = samples([0.4, -0.1], [0.8, 0.3])
  slope = 2.0 * (t.sigma(2 * 0.5) - t.sigma(0.5))
  got = t.gradient("dno", x, eta=2.0)
  t.close(got, [[[slope, slope], [-slope, -slope]]])
  t.check_gradient("dno", samples([0.4, -0.1, 0.9], [0.8, 0.3, 0.6]), eta=2.0)
