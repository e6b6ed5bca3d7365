"""Unlikelihood: -log(1 - p) of every unwanted token."""

import numpy as np

from tests.methods import tokens as t
from xpo_jax.types import Feedback

P = np.array([[[0.5, 0.2, 0.9]], [[0.01, 0.75, 1.0]]])
MASK = [[[1, 1, 1]], [[1, 1, 0]]]


def unwanted(labels=(-1.0, -1.0), p=P):
  labels = np.asarray(labels)[:, None]
  return t.from_arrays(
    Feedback.BINARY, labels, mask=MASK, policy_logps=np.log(p)
  )


def test_formula():
  got = t.per_prompt("unlikelihood", unwanted())
  t.close(got, [-np.log(0.5 * 0.8 * 0.1), -np.log(0.99 * 0.25)])


def test_gradient():
  want = np.array(MASK) * (P / np.maximum(1 - P, 1e-9)) / 2
  t.close(t.gradient("unlikelihood", unwanted()), want)
  t.check_gradient("unlikelihood", unwanted())


def test_a_certain_token_costs_sixteen_nats():
  x = unwanted(p=np.full(P.shape, 1.0))
  t.close(
    t.per_prompt("unlikelihood", x), -np.log(1e-7) * np.array([3, 2]), 1e-6
  )
  assert np.all(np.isfinite(t.gradient("unlikelihood", x)))


def test_only_undesirable_rows_count():
  out = t.run("unlikelihood", unwanted(labels=(1.0, -1.0)))
  t.close(out.loss, [0.0, -np.log(0.99 * 0.25)])
  np.testing.assert_array_equal(out.weight, [0.0, 1.0])
