"""NCA: each completion against noise, absolute values."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods import inputs
from tests.methods.pairs import (
  U_L,
  U_W,
  check_slopes,
  close,
  golden,
  losses,
  softplus,
)
from xpo_jax.errors import XpoError
from xpo_jax.methods import registry
from xpo_jax.types import Feedback

NCA = registry.get("nca")
U, R = np.array([1.0, -0.5, 0.25]), np.array([2.0, 0.0, 1.0])


def three(u=U, scores=R, present=None):
  """One prompt with three scored completions of log-ratios u."""
  reference = np.array([-5.0, -7.0, -4.0])
  x = inputs.from_sums(
    [reference + u],
    reference=[reference],
    lengths=[[3, 5, 2]],
    kind=Feedback.SCORE,
    feedback=[scores],
  )
  if present is None:
    return x
  mask = np.asarray(x.completion_mask) & present[..., None]
  return x.replace(
    present=jnp.asarray(present), completion_mask=jnp.asarray(mask)
  )


def softmax(x):
  return np.exp(x) / np.exp(x).sum()


def test_golden():
  close(losses("nca", beta=0.1), [1.3387933201, 1.4258248141])
  close(softmax(R), [0.6652409558, 0.0900305732, 0.2447284711])
  close(NCA.loss(three(), beta=0.1, alpha=1.0).loss, 1.3661491172)


def test_formulas():
  want = softplus(-0.3 * U_W) + 0.5 * softplus(0.3 * U_W)
  close(losses("nca", beta=0.3), want + 0.5 * softplus(0.3 * U_L))
  s, w = 0.3 * U, softmax(R / 2.0)
  want = np.sum(w * softplus(-s) + softplus(s) / 3)
  close(NCA.loss(three(), beta=0.3, alpha=2.0).loss, want)


def test_policy_at_the_reference():
  close(NCA.loss(three(u=0 * U)).loss, 2 * math.log(2), 1e-15)


def test_least_at_log_k_w():
  best = np.log(3 * softmax(R)) / 0.1
  grad = inputs.token_gradient(NCA, three(u=best), beta=0.1, alpha=1.0)
  close(grad, 0.0, 1e-15)
  off = inputs.token_gradient(NCA, three(u=best + 1.0), beta=0.1, alpha=1.0)
  assert off[0, :, 0].min() > 1e-4  # absolute: a shift matters


def test_absent_completions_do_not_count():
  x = three(present=np.array([[True, False, True]]))
  s, w = 0.1 * U[[0, 2]], softmax(R[[0, 2]])
  want = np.sum(w * softplus(-s) + softplus(s) / 2)
  close(NCA.loss(x, beta=0.1, alpha=1.0).loss, want)


def test_default_temperature_is_practically_one_hot():
  want = softplus(-0.01 * U[0]) + np.sum(softplus(0.01 * U)) / 3
  close(NCA.loss(three()).loss, want)


def test_metrics_compare_best_and_worst():
  got = NCA.loss(three(scores=[0.0, 3.0, 1.0]), beta=0.1).metrics
  close(got["rewards/chosen"], -0.05)
  close(got["rewards/rejected"], 0.1)
  close(got["rewards/accuracy"], 0.0)
  close(got["logps/chosen"], -7.5)


def test_gradients():
  check_slopes("nca", golden("nca"), beta=0.5)
  check_slopes("nca", three(), beta=0.5, alpha=1.0)


def test_order_feedback_is_for_pairs():
  x = three().replace(feedback_kind=Feedback.ORDER)
  with pytest.raises(XpoError, match="takes K = 2 .* the batch has 3"):
    NCA.loss(x)
