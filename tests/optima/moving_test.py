"""Fixed points of losses whose statistics or opponents lag behind."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests.methods import inputs
from tests.optima import bandit as b
from tests.optima import tables as t
from xpo_jax.methods import registry
from xpo_jax.types import Feedback


def carried(step, start, steps):
  """The carry after so many steps."""
  return b.compiled(
    lambda carry: lax.fori_loop(0, steps, lambda _, c: step(c), carry)
  )(start)


def test_beta_dpo_ends_where_dpo_does():
  """At rest the moving mean is the batch's own, so beta is back at beta_0.

  The mean gains 10% of the distance a step, the policy's slowest direction
  shrinks by 5%: after 1,000 steps nothing is left of either.
  """
  method, beta = registry.get("beta_dpo"), 0.7
  settings = method.settings({"beta": beta, "keep": 1.0, "momentum": 0.9})
  table = t.pairs(t.bradley_terry())

  def loss(logits, state):
    x = b.observe(table, jax.nn.log_softmax(logits), t.REFERENCE)
    out = method.loss(x.replace(state=state), **settings)
    return 12 * inputs.total(out), out.state

  def step(carry):
    slope, state = jax.grad(loss, has_aux=True)(*carry)
    return carry[0] - 3.0 / beta**2 * slope, state

  start = jnp.log(t.REFERENCE), method.init_state(settings)
  logits, state = carried(step, start, 1_000)
  want = np.log(t.tilted(t.REFERENCE, t.REWARDS / beta))
  b.near(jax.nn.log_softmax(logits), want)
  winner, loser = table.arms.T
  u = want - np.log(t.REFERENCE)
  b.near(state["mean"], np.mean(u[winner] - u[loser]))
  b.near(state["std"], np.std(u[winner] - u[loser], ddof=1))


def test_nash_ema_against_its_own_average():
  """The regularised Nash policy of methods.md 12.1, averaged or not."""
  game = np.array([[0.5, 0.7, 0.2], [0.3, 0.5, 0.9], [0.8, 0.1, 0.5]])
  reference, tau = np.array([0.5, 0.3, 0.2]), 0.5
  none = np.full((3, 1), np.nan)
  arms = np.arange(3)[:, None]
  table = t.Table(Feedback.PROBABILITY, arms, none, none[:, 0])

  def loss(logits, average):
    log_policy = jax.nn.log_softmax(logits)
    wins = (game @ jax.nn.softmax(average))[:, None]
    x = b.rollout(table, log_policy, reference, feedback=wins)
    return b.expected("nash_ema", x, tau=tau)

  def step(carry):
    logits, average = carry
    slope = jax.grad(loss)(logits, average)
    logits = logits - 0.5 * slope / jax.nn.softmax(logits)
    return logits, 0.9 * average + 0.1 * logits

  start = jnp.log(jnp.array([0.1, 0.1, 0.8]))
  logits, average = carried(step, (start, start), 1_000)
  want = [0.4947682262, 0.2920626286, 0.2131691452]
  b.near(jax.nn.softmax(logits), want)
  b.near(jax.nn.softmax(average), want)
