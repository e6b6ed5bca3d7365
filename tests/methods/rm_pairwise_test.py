"""Pairwise preference model: the answers A and B are the completions."""

import numpy as np

from tests.methods import tokens as t
from xpo_jax import lists
from xpo_jax.types import Feedback

LOGPS = [[[-0.2, -0.1], [-1.6, -0.3]], [[-2.0, -0.4], [-0.4, -0.1]]]
GAP = np.array([1.6, -1.9])  # -.3 + 1.9, -2.4 + .5


def answers(kind=Feedback.ORDER, p=(1.0, 1.0)):
  feedback = np.stack([p, 1 - np.asarray(p)], -1)
  return t.from_arrays(kind, feedback, policy_logps=LOGPS)


def test_cross_entropy_of_the_right_answer():
  got = t.per_prompt("rm_pairwise", answers())
  t.close(got, [np.log(1 + np.exp(-1.6)), np.log(1 + np.exp(1.9))])
  # The softmax over the two answers alone, whatever else the model says.
  first, second = np.exp(-0.3), np.exp(-1.9)
  t.close(got[0], -np.log(first / (first + second)))


def test_soft_labels():
  p = np.array([0.7, 0.4])
  got = t.per_prompt("rm_pairwise", answers(Feedback.PROBABILITY, p))
  t.close(got, p * t.softplus(-GAP) + (1 - p) * t.softplus(GAP))


def test_swapping_the_answers_with_their_labels_changes_nothing():
  x = answers(Feedback.PROBABILITY, (0.7, 0.4))
  swapped = t.completions(x, 1, 0)
  t.close(t.per_prompt("rm_pairwise", swapped), t.per_prompt("rm_pairwise", x))


def test_gradient():
  t.check_gradient("rm_pairwise", answers(Feedback.PROBABILITY, (0.7, 0.4)))


def test_symmetrised_judgements():
  wins = np.array([[0.9, 0.8, 0.3], [0.4, 0.6, 0.5], [0.6, 0.1, 0.5]])
  p = np.asarray(lists.symmetrised(wins))
  t.close(p[0, 1], 0.5 * (0.8 + 1 - 0.4))
  t.close(p + p.T, np.ones((3, 3)))
  t.close(np.diag(p), [0.5, 0.5, 0.5])


def test_a_pointwise_reward_is_the_logit_of_its_own_judgements():
  r = np.array([0.4, -1.1, 2.0])
  p = np.asarray(lists.symmetrised(t.sigma(r[:, None] - r[None, :])))
  t.close(np.log(p / (1 - p)), r[:, None] - r[None, :])
