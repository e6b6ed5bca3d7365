"""InfoNCA: cross-entropy of a softmax over completions."""

import math

import numpy as np
import pytest

from tests.methods import inputs
from tests.methods.nca_test import R, U, softmax, three
from tests.methods.pairs import check_slopes, close, golden, losses
from xpo_jax.errors import XpoError
from xpo_jax.methods import registry
from xpo_jax.types import Feedback

INFONCA = registry.get("infonca")


def test_golden():
  got = INFONCA.loss(three(), beta=0.1, alpha=1.0).loss
  close(got, 1.0573456318)
  close(losses("infonca", beta=0.1), [0.5981388694, 0.7709570478])


def test_formula():
  want = -np.sum(softmax(R / 2.0) * np.log(softmax(0.3 * U)))
  close(INFONCA.loss(three(), beta=0.3, alpha=2.0).loss, want)


def test_a_pair_is_dpo():
  close(losses("infonca", beta=0.4), losses("dpo", beta=0.4), 1e-14)


def test_policy_at_the_reference():
  for scores in (R, [5.0, 5.0, -2.0]):
    got = INFONCA.loss(three(u=0 * U, scores=scores), alpha=1.0).loss
    close(got, math.log(3), 1e-14)


def test_least_at_log_w_plus_a_constant():
  for shift in (0.0, 4.0):
    x = three(u=np.log(softmax(R)) / 0.1 + shift)
    grad = inputs.token_gradient(INFONCA, x, beta=0.1, alpha=1.0)
    close(grad, 0.0, 1e-15)


def test_absent_completions_do_not_count():
  x = three(present=np.array([[True, False, True]]))
  want = -np.sum(softmax(R[[0, 2]]) * np.log(softmax(0.1 * U[[0, 2]])))
  close(INFONCA.loss(x, beta=0.1, alpha=1.0).loss, want)


def test_gradients():
  check_slopes("infonca", golden("infonca"), beta=0.5)
  check_slopes("infonca", three(), beta=0.5, alpha=1.0)


def test_order_feedback_is_for_pairs():
  x = three().replace(feedback_kind=Feedback.ORDER)
  with pytest.raises(XpoError, match="takes K = 2 .* the batch has 3"):
    INFONCA.loss(x)
