"""NPO: unlearning whose push fades, between DPO and gradient ascent."""

import jax.numpy as jnp
import numpy as np

from tests.methods import inputs
from tests.methods import tokens as t
from xpo_jax.types import Feedback

U = np.array([-1.0, 0.5])  # u_l of methods.md 16.1


def forget(u=U, labels=(-1.0, -1.0)):
  reference = np.array([[-14.0], [-18.75]])
  return inputs.from_sums(
    reference + np.asarray(u)[:, None],
    reference=reference,
    lengths=[[4], [5]],
    kind=Feedback.BINARY,
    feedback=np.asarray(labels)[:, None],
  )


def test_golden():
  got = t.per_prompt("npo", forget())
  t.close(got, 20 * np.log(1 + np.exp(0.1 * U)))
  t.close(got, [12.8879332015, 14.3691929603])
  t.close(got.mean(), 13.6285630809)


def test_gradient():
  """methods.md 16.3: dl/dS = 2 sigma(beta u)."""
  mask = np.asarray(forget().completion_mask)
  want = np.array([0.9500416250, 1.0249947930])[:, None, None] * mask
  t.close(2 * t.gradient("npo", forget()), want)
  t.check_gradient("npo", forget(), beta=0.8)


def test_policy_at_the_reference():
  x = forget(np.zeros(2))
  t.close(t.per_prompt("npo", x, beta=0.5), 4 * np.log([2.0, 2.0]))
  ascent = t.gradient("ga", x.replace(reference_logps=None))
  t.close(t.gradient("npo", x, beta=0.5), ascent)


def test_small_beta_is_gradient_ascent():
  beta = 1e-6
  got = t.per_prompt("npo", forget(), beta=beta) - 2 / beta * np.log(2)
  t.close(got, U, atol=1e-6)
  ascent = t.gradient("ga", forget().replace(reference_logps=None))
  t.close(t.gradient("npo", forget(), beta=beta), ascent, atol=1e-6)


def test_is_dpo_without_the_chosen_side():
  u = np.stack([[0.0, 0.0], U], -1)[..., None]
  pair = t.from_arrays(
    Feedback.ORDER,
    [[1.0, 0.0], [1.0, 0.0]],
    policy_logps=u - 3.0,
    reference_logps=np.full(u.shape, -3.0),
  )
  want = 2 / 0.3 * t.per_prompt("dpo", pair, beta=0.3)
  t.close(t.per_prompt("npo", forget(), beta=0.3), want)


def test_saturates_when_the_text_is_forgotten():
  x = forget([-400.0, -800.0])
  t.close(t.per_prompt("npo", x), np.zeros(2), atol=1e-15)
  t.close(t.gradient("npo", x), np.zeros(x.policy_logps.shape), atol=1e-15)


def test_only_undesirable_rows_count():
  x = forget(labels=(1.0, -1.0))
  out = t.run("npo", x)
  t.close(out.loss, [0.0, 14.3691929603])
  t.close(np.mean(out.metrics["rewards/rejected"]), 0.05)
  np.testing.assert_array_equal(out.weight, [0.0, 1.0])
  assert jnp.all(t.gradient("npo", x)[0] == 0)
