"""DRO-V: the policy's and the value's loss, and the form without a value."""

import numpy as np
import pytest

from tests.methods import inputs
from tests.methods import tokens as t
from xpo_jax.errors import XpoError
from xpo_jax.types import Feedback

U = [[[0.4, 0.6]], [[-0.7, -0.3]]]  # u_w = [1, -1] of methods.md 16.1
REFERENCE = [[[-1.0, -2.0]], [[-0.5, -0.2]]]


def scored(u, r, values=None, reference=None, mask=None):
  u = np.asarray(u, float)
  reference = np.full(u.shape, -1.5) if reference is None else reference
  fields = {} if values is None else {"values": values}
  return t.from_arrays(
    Feedback.SCORE,
    r,
    mask=mask,
    policy_logps=u + np.asarray(reference),
    reference_logps=reference,
    **fields,
  )


def golden():
  values = [[[0.5, 9.0]], [[-0.25, 9.0]]]
  return scored(U, [[1.0], [-1.0]], values, REFERENCE)


def test_golden():
  out = t.run("dro", golden())
  policy = np.array([-1 * (1 - 0.5) + 0.5, 1 * (-1 + 0.25) + 0.5])
  value = np.array([(1 - 0.5 - 1) ** 2 / 2, (-1 + 0.25 + 1) ** 2 / 2])
  t.close(policy, [0, -0.25])
  t.close(value, [0.125, 0.03125])
  t.close(out.metrics["value/loss"], value)
  t.close(out.loss, policy + value)


def test_gradients_stay_with_their_own_parameters():
  r, v, u = np.array([1.0, -1.0]), np.array([0.5, -0.25]), np.array([1.0, -1.0])
  slope = t.gradient("dro", golden(), tau=0.7)
  joint = -0.7 * (r - v - 0.7 * u)  # of (r - V - tau u)^2 / 2
  t.close(slope[:, 0, 0], joint / 0.7 / 2)
  t.close(slope[:, 0, 1], joint / 0.7 / 2)
  slope = t.gradient("dro", golden(), "values", tau=0.7)
  t.close(slope[:, 0], np.stack([(v - r + 0.7 * u) / 2, [0, 0]], -1))


def test_two_completions_are_two_examples():
  """And an absent one is none."""
  u, r = [[[0.4], [-0.9]], [[0.3], [0.1]]], [[1.0, 0.2], [0.5, 0.6]]
  values = [[[0.3], [0.3]], [[-0.1], [-0.1]]]
  x = t.absent(scored(u, r, values), (1, 1))
  out = t.run("dro", x)

  def one(r, v, u):
    return -u * (r - v) + u**2 / 2 + (r - v - u) ** 2 / 2

  first = one(1.0, 0.3, 0.4) + one(0.2, 0.3, -0.9)
  t.close(out.loss, [first, one(0.5, -0.1, 0.3)])
  np.testing.assert_array_equal(out.weight, [2.0, 1.0])


def test_tokens_form():
  mask = [[[1, 1]], [[1, 0]]]
  values = np.array([[[0.3, -0.2]], [[0.6, 9.0]]])
  x = scored(U, [[1.0], [-1.0]], values, mask=mask)

  def one(r, v, u, tau=0.7):
    return -u * (r - v) + tau / 2 * u**2 + (r - v - tau * u) ** 2 / 2

  got = t.per_prompt("dro", x, value="tokens", tau=0.7)
  first = (one(1.0, 0.3, 0.4 + 0.6) + one(1.0, -0.2, 0.6)) / 2
  t.close(got, [first, one(-1.0, 0.6, -0.7)])
  # With one token it is the form with one value.
  head = t.per_prompt("dro", t.prompts(x, 1), tau=0.7)
  t.close(head, got[1:])


def test_without_a_value_it_is_a_squared_difference():
  x = scored([[[0.4], [-0.9]]], [[1.0, 0.2]])
  got = t.per_prompt("dro", x, value="none", tau=0.7)
  t.close(got, [(0.8 - 0.7 * 1.3) ** 2 / 4])
  t.check_gradient("dro", x, value="none", tau=0.7)
  with pytest.raises(XpoError, match="K = 2"):
    t.run("dro", t.completions(x, 0), value="none")


def test_without_a_value_it_contains_ipo():
  """r_1 - r_2 = 1/2 gives tau^2 / 4 times IPO's loss."""
  pairs = inputs.golden_pairs()
  ipo = t.run("ipo", pairs, tau=0.3).loss
  scores = pairs.replace(
    feedback=pairs.feedback / 2, feedback_kind=Feedback.SCORE
  )
  got = t.per_prompt("dro", scores, value="none", tau=0.3)
  t.close(got, 0.3**2 / 4 * np.asarray(ipo))


def optimum(tau=0.6):
  """Every completion of a 4-armed bandit at the regularised optimum."""
  reference, r = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.3, -1.0, 0.8, 2.0])
  v = tau * np.log(reference @ np.exp(r / tau))
  u = (r - v) / tau
  t.close(reference @ np.exp(u), 1.0)  # a distribution indeed
  return scored(
    u[:, None, None],
    r[:, None],
    np.full((4, 1, 1), v),
    np.log(reference)[:, None, None],
  )


def test_the_optimum_is_stationary_for_any_data_distribution():
  x = optimum().replace(weight=np.array([0.2, 3.0, 1.0, 0.5]))
  for field in ("policy_logps", "values"):
    t.close(t.gradient("dro", x, field, tau=0.6), np.zeros((4, 1, 1)))
  out = t.run("dro", x, tau=0.6)
  t.close(out.metrics["value/loss"], np.zeros(4))
  pairs = scored(
    np.reshape(x.policy_logps - x.reference_logps, (2, 2, 1)),
    np.reshape(x.feedback, (2, 2)),
  )
  t.close(t.per_prompt("dro", pairs, value="none", tau=0.6), [0.0, 0.0])


def test_the_best_value_is_the_mean_of_what_the_policy_leaves():
  u, r = np.array([0.4, -0.7, 0.2, 1.1]), np.array([0.3, -1.0, 0.8, 2.0])
  best = np.mean(r - 0.6 * u)
  x = scored(u[:, None, None], r[:, None], np.full((4, 1, 1), best))
  t.close(np.sum(t.gradient("dro", x, "values", tau=0.6)), 0.0)


def test_tokens_form_is_stationary_at_the_values_of_prefixes():
  """Two binary tokens; V_t = tau log E_ref[exp(r / tau) | prefix]."""
  tau, r = 0.6, np.array([[0.3, -1.0], [0.8, 2.0]])
  first, second = np.array([0.7, 0.3]), np.array([[0.4, 0.6], [0.9, 0.1]])
  inner = tau * np.log(np.sum(second * np.exp(r / tau), -1))
  start = tau * np.log(first @ np.exp(inner / tau))
  u = np.stack(
    [
      np.broadcast_to((inner - start)[:, None], (2, 2)) / tau,
      (r - inner[:, None]) / tau,
    ],
    -1,
  )
  values = np.stack(
    [np.full((2, 2), start), np.broadcast_to(inner[:, None], (2, 2))], -1
  )
  x = scored(u.reshape(4, 1, 2), r.reshape(4, 1), values.reshape(4, 1, 2))
  keywords = dict(value="tokens", tau=tau)
  for field in ("policy_logps", "values"):
    t.close(t.gradient("dro", x, field, **keywords), np.zeros((4, 1, 2)))
