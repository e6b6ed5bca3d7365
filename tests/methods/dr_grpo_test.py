"""Dr. GRPO: centred rewards, sums over tokens by a constant length."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from tests.methods import groups as g
from tests.methods import inputs
from tests.methods import tokens as t
from xpo_jax.types import Feedback


def test_advantages_golden():
  got = g.advantages("dr_grpo")
  t.close(got, [0.625, -0.375, -0.375, 0.125])
  t.close(got, g.advantages("rloo", beta=0.0) * 3 / 4)


def test_absent_samples_are_in_no_mean():
  rewards = [1.0, 50.0, 0.0, 0.5]
  got = g.advantages("dr_grpo", rewards, present=[1, 0, 1, 1])
  t.close(got, [0.5, 0.0, -0.5, 0.0])


def test_a_constant_takes_the_place_of_lengths():
  tokens = g.clipped(g.LOGRATIO, 0.2, 0.2)
  want = np.sum(tokens[g.MASK]) / (4 * 7)
  t.close(t.value("dr_grpo", g.step(), loss_length=7), want)
  t.close(t.value("dr_grpo", g.reductions(), loss_length=4), 1.25)
  out = t.run("dr_grpo", g.step(), loss_length=7)
  np.testing.assert_array_equal(out.weight, [14, 14])


def test_kl():
  tokens = g.clipped(g.LOGRATIO, 0.2, 0.2) + 0.3 * g.k3()
  got = t.value("dr_grpo", g.step(reference=True), beta=0.3, loss_length=1)
  t.close(got, np.sum(tokens[g.MASK]) / 4)


def test_gradient():
  x = g.step(reference=True)
  t.check_gradient("dr_grpo", x, beta=0.3, kl_loss="k2", loss_length=3)


def test_k2_has_the_regularised_optimum():
  """Stationary at ref exp(r / b), b = beta G / (G - 1), over all groups."""
  size, beta = 3, 0.4
  r, reference = np.array([1.0, 0.2, -0.6]), np.array([0.5, 0.2, 0.3])
  p = reference * np.exp(r / (beta * size / (size - 1)))
  logits = jnp.log(p / p.sum())
  p = np.exp(logits)
  drawn = np.array(list(itertools.product(range(3), repeat=size)))
  x = t.from_arrays(
    Feedback.SCORE,
    r[drawn],
    policy_logps=np.log(p)[drawn][..., None],
    sampler_logps=np.log(p)[drawn][..., None],
    reference_logps=np.log(reference)[drawn][..., None],
  )
  keywords = dict(beta=beta, kl_loss="k2", loss_length=1)
  x = g.prepared("dr_grpo", x, **keywords)
  x = x.replace(weight=jnp.asarray(np.prod(p[drawn], -1) * len(drawn)))

  def expected(logits):
    logps = jax.nn.log_softmax(logits)[drawn][..., None]
    out = t.run("dr_grpo", x.replace(policy_logps=logps), **keywords)
    return inputs.total(out)

  t.close(jax.grad(expected)(logits), np.zeros(3))
  assert (
    np.abs(jax.grad(expected)(logits + jnp.asarray([0, 0, 0.5]))).max() > 0.01
  )
