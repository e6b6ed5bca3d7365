"""EXO: reverse KL between two distributions over completions."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods.nca_test import three
from tests.methods.pairs import (
  H,
  check_slopes,
  close,
  golden,
  losses,
  pair,
  sigma,
  slopes,
)
from xpo_jax.errors import XpoError
from xpo_jax.methods import registry
from xpo_jax.types import Feedback

EXO = registry.get("exo")


def test_golden():
  close(losses("exo"), [2.4220146207, 3.0225540819])
  close(EXO.loss(three(), beta_r=1.0).loss, 0.2609128606)


def test_formulas():
  q, eps = sigma(0.3 * H), 0.05
  want = q * np.log(q / (1 - eps)) + (1 - q) * np.log((1 - q) / eps)
  close(losses("exo", beta=0.3, eps=eps), want)
  q = np.exp(0.5 * np.array([1.0, -0.5, 0.25]))
  p = np.exp(np.array([2.0, 0.0, 1.0]) / 3.0)
  q, p = q / q.sum(), p / p.sum()
  got = EXO.loss(three(), beta=0.5, beta_r=3.0).loss
  close(got, np.sum(q * np.log(q / p)))


def test_least_where_the_distributions_agree():
  eps = 0.02
  best = math.log((1 - eps) / eps)
  x = pair([best, 0.0, best + 0.5], 0.0)
  got = losses("exo", x, beta=1.0, eps=eps)
  close(got[0], 0.0, 1e-15)
  close(got[1], -math.log(2) - 0.5 * math.log(eps * (1 - eps)))
  assert got[2] > 0
  close(slopes("exo", x, beta=1.0, eps=eps)[0], 0.0, 1e-15)
  scores = np.array([2.0, 0.0, 1.0])
  x = three(u=3.0 * scores)  # beta u = r / beta_r
  close(EXO.loss(x, beta=0.5, beta_r=1 / 1.5).loss, 0.0, 1e-15)


def test_a_list_of_two_is_the_pair():
  eps = 0.1
  gap = 0.7 * math.log((1 - eps) / eps)
  x = golden("exo").replace(
    feedback_kind=Feedback.SCORE,
    feedback=jnp.array([[3.0 + gap, 3.0], [gap, 0.0]]),
  )
  close(losses("exo", x, beta_r=0.7), losses("exo", eps=eps), 1e-14)


def test_absent_completions_do_not_count():
  present = np.array([[True, False, True]])
  x = three(present=present)
  s, r = np.array([0.1, 0.025]), np.array([2.0, 1.0])
  q, p = np.exp(s) / np.exp(s).sum(), np.exp(r) / np.exp(r).sum()
  close(EXO.loss(x, beta_r=1.0).loss, np.sum(q * np.log(q / p)))


def test_gradients():
  z, eps = 0.1 * H, 1e-3
  want = 0.1 * sigma(z) * sigma(-z) * (z - math.log((1 - eps) / eps))
  close(slopes("exo", golden("exo")), np.stack([want, -want], -1))
  far = slopes("exo", pair([-900.0], 0.0), beta=1.0)
  close(far, 0.0, 1e-300)  # a badly wrong start barely moves
  check_slopes("exo", golden("exo"), beta=0.5, eps=0.1)
  check_slopes("exo", three(), beta=0.5, beta_r=1.0)


def test_order_feedback_is_for_pairs():
  x = three().replace(feedback_kind=Feedback.ORDER)
  with pytest.raises(XpoError, match="takes K = 2 .* the batch has 3"):
    EXO.loss(x)
