"""REINFORCE++: rewards to go, whitened over all tokens of the rollout."""

import jax.numpy as jnp
import numpy as np

from tests.methods import groups as g
from tests.methods import tokens as t
from xpo_jax.types import Feedback

MASK = np.array([[[1, 1, 1]], [[1, 1, 0]]], bool)  # methods.md 14.2
LOGRATIO = np.array([[[0.1, -0.2, 0.05]], [[0.2, 0.1, 9.0]]])


def rollout(scores=(1.0, -0.5), reference=True):
  policy = np.array([[[-1.0, -0.5, -2.0]], [[-0.3, -0.7, 9.0]]])
  fields = {"reference_logps": policy - LOGRATIO} if reference else {}
  return t.from_arrays(
    Feedback.SCORE,
    np.asarray(scores)[:, None],
    mask=MASK,
    policy_logps=policy,
    sampler_logps=policy,
    **fields,
  )


def advantages(x, **keywords):
  x = g.prepared("reinforce_pp", x, **keywords)
  return np.asarray(x.advantages)[MASK]


def test_golden():
  to_go = np.array([1.0005, 1.0015, 0.9995, -0.503, -0.501])
  r = np.array([-0.001, 0.002, 1 - 0.0005, -0.002, -0.5 - 0.001])
  t.close(to_go, [r[:3].sum(), r[1:3].sum(), r[2], r[3:].sum(), r[4]])
  got = advantages(rollout())
  t.close(got, (to_go - to_go.mean()) / to_go.std())
  t.close(
    got,
    [0.8164959781, 0.8178545405, 0.8151374158, -1.2261025296, -1.2233854048],
  )
  t.close([got.mean(), got.var()], [0.0, 1.0])


def test_discount():
  to_go = np.array([0.81, 0.9, 1.0, -0.45, -0.5])
  got = advantages(rollout(reference=False), kl_coef=0.0, gamma=0.9)
  t.close(got, (to_go - to_go.mean()) / to_go.std())


def test_without_kl_a_sample_has_one_advantage():
  """And the longer sample weighs more in the mean."""
  got = advantages(rollout(reference=False), kl_coef=0.0)
  spread = np.sqrt(0.6 * 0.4) * 1.5
  t.close(got, [0.6 / spread] * 3 + [-0.9 / spread] * 2)


def test_equal_scores_without_kl_are_silent():
  x = rollout((0.3, 0.3), reference=False)
  t.close(advantages(x, kl_coef=0.0), np.zeros(5))


def test_empty_slots_are_in_no_statistic():
  x = rollout().replace(weight=jnp.asarray([3.0, 0.0]))
  to_go = np.array([1.0005, 1.0015, 0.9995])
  want = (to_go - to_go.mean()) / np.sqrt(to_go.var())
  t.close(advantages(x), [*want, 0, 0])


def test_loss_is_a_token_mean():
  tokens = g.clipped(g.LOGRATIO, 0.2, 0.28)
  keywords = dict(kl_coef=0.0, clip_high=0.28)
  out = t.run("reinforce_pp", g.step(), **keywords)
  np.testing.assert_array_equal(out.weight, [4, 5])
  want = np.sum(tokens[g.MASK]) / 9
  t.close(t.value("reinforce_pp", g.step(), **keywords), want)
  t.check_gradient("reinforce_pp", g.step(), **keywords)
