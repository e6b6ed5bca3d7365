"""Outcome reward model: the same label at the last or at every token."""

import numpy as np

from tests.methods import tokens as t
from xpo_jax.types import Feedback

LABELS = [[1.0, -1.0], [0.0, 1.0]]  # 0: not labelled
Z = [[0.7, 0.2], [5.0, -1.5]]
TOKEN_Z = [[[0.1, 0.7], [0.2, 8.0]], [[5.0, 5.0], [-0.3, -1.5]]]
MASK = [[[1, 1], [1, 0]], [[1, 1], [1, 1]]]


def outcomes(**scores):
  return t.from_arrays(Feedback.BINARY, LABELS, mask=MASK, **scores)


def test_last_token():
  out = t.run("rm_orm", outcomes(scores=Z))
  t.close(
    out.loss,
    [
      -np.log(t.sigma(0.7)) - np.log(1 - t.sigma(0.2)),
      -np.log(t.sigma(-1.5)),
    ],
  )
  np.testing.assert_array_equal(out.weight, [2.0, 1.0])
  t.close(out.metrics["rewards/accuracy"], [0.5, 0.0])
  t.check_gradient("rm_orm", outcomes(scores=Z), "scores")


def test_dense_is_a_mean_over_labelled_tokens():
  x = outcomes(token_scores=TOKEN_Z)
  out = t.run("rm_orm", x, dense=True)
  first = t.softplus(-0.1) + t.softplus(-0.7) + t.softplus(0.2)
  second = t.softplus(0.3) + t.softplus(1.5)
  t.close(out.loss, [first, second])
  np.testing.assert_array_equal(out.weight, [3.0, 2.0])
  t.close(t.value("rm_orm", x, dense=True), (first + second) / 5)
  label = np.array([[[1.0], [0.0]], [[0.0], [1.0]]])
  counted = np.array(MASK) * (np.array(LABELS) != 0)[..., None]
  want = (t.sigma(TOKEN_Z) - label) * counted / 5
  t.close(t.gradient("rm_orm", x, "token_scores", dense=True), want)


def test_one_token_is_the_same_either_way():
  plain = t.from_arrays(Feedback.BINARY, LABELS, scores=Z)
  dense = t.from_arrays(
    Feedback.BINARY, LABELS, token_scores=np.array(Z)[..., None]
  )
  t.close(t.value("rm_orm", dense, dense=True), t.value("rm_orm", plain))
