"""Texts of two tokens: what a token's log-ratio means, and token-level losses.

A tree of 3 first and 3 second tokens; a text's reward r(a, b) is seen at its
end. V(a) = beta log E_reference[e^(r / beta) | a] and V = beta log E_reference
e^(V(a) / beta) by backward induction; Q(a) = V(a) and Q(a, b) = r(a, b).
"""

import itertools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests.optima import bandit as b
from tests.optima import tables as t
from xpo_jax.types import Feedback

BETA = 0.7
R = np.array([[0.9, -0.4, 0.3], [0.1, 0.8, -0.6], [-0.2, 0.5, 1.1]])
FIRST = np.array([0.5, 0.3, 0.2])
SECOND = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.3, 0.3, 0.4]])
A, B = np.array(list(itertools.product(range(3), repeat=2))).T  # texts
V_A = BETA * np.log(np.sum(SECOND * np.exp(R / BETA), axis=1))
V = BETA * np.log(FIRST @ np.exp(V_A / BETA))
START = {"first": np.log(FIRST), "second": np.log(SECOND)}


def token_logps(first, second):
  """[9, 2] of every text."""
  return jnp.stack([first[A], second[A, B]], axis=-1)


REFERENCE = np.log(np.stack([FIRST[A], SECOND[A, B]], axis=-1))


def normalised(params):
  return {k: jax.nn.log_softmax(v) for k, v in params.items() if k != "value"}


def observe(table, logps, **fields):
  """LossInputs of a table whose arms are the nine texts."""
  arms = jnp.asarray(table.arms)
  x = b.observe(table, logps.sum(-1), lengths=2, **fields)
  return x.replace(
    policy_logps=logps[arms], reference_logps=jnp.asarray(REFERENCE)[arms]
  )


def pairs():
  return t.pairs(t.bradley_terry(R[A, B]), np.linspace(1.0, 2.0, 9))


def credits(params):
  """beta (log policy - log reference) of the first and the second token."""
  got = {k: np.asarray(v) for k, v in normalised(params).items()}
  return (
    BETA * (got["first"] - np.log(FIRST)),
    BETA * (got["second"] - np.log(SECOND)),
  )


def test_dpo_from_r_to_q():
  """Trained on whole texts, each token's credit is its advantage Q - V.

  So the credits of a text add up to r - V, and those of its end to r - V(a).
  """

  def loss(params):
    x = observe(pairs(), token_logps(**normalised(params)))
    return b.expected("dpo", x, beta=BETA)

  first, second = credits(b.settle(loss, START, rate=2.0))
  b.near(first, V_A - V)
  b.near(second, R - V_A[:, None])
  b.near((first[:, None] + second), R - V)


def test_tdpo1_pays_for_the_divergence_ahead():
  """beta (u + K) = r + c, K the forward KLs of a text's prefixes.

  The second tokens are DPO's, so K(a) = KL(reference || policy at a) is known,
  and the first token gets V(a) - beta K(a); K at the start cancels.
  """

  def loss(params):
    at = normalised(params)
    forward = lambda p, q: jnp.sum(p * (jnp.log(p) - q), axis=-1)
    start = jnp.broadcast_to(forward(FIRST, at["first"]), (9,))
    kl = jnp.stack([start, forward(SECOND, at["second"])[A]], axis=-1)
    table = pairs()
    x = observe(table, token_logps(**at), token_kl=kl[table.arms])
    return b.expected("tdpo1", x, beta=BETA)

  first, second = credits(b.settle(loss, START, rate=1.0))
  b.near(second, R - V_A[:, None])
  ahead = -np.sum(SECOND * (R - V_A[:, None]), axis=1) / BETA
  want = t.tilted(FIRST, (V_A - BETA * ahead) / BETA)
  b.near(first, BETA * np.log(want / FIRST))


def test_dro_values_of_every_prefix():
  """V_t = tau log E_reference[e^(r / tau) | prefix], and the same policy."""
  table = t.Table(
    Feedback.SCORE,
    np.arange(9)[:, None],
    R[A, B][:, None],
    np.linspace(1.0, 2.0, 9) / 13.5,
  )

  def loss(params):
    value = params["value"]
    values = jnp.stack([jnp.broadcast_to(value[3], (9,)), value[A]], axis=-1)
    logps = token_logps(**normalised(params))
    x = observe(table, logps, values=values[:, None])
    return b.expected("dro", x, tau=BETA, value="tokens")

  got = b.settle(loss, START | {"value": np.zeros(4)}, rate=1.0)
  b.near(got["value"], [*V_A, V])
  first, second = credits(got)
  b.near(first, V_A - V)
  b.near(second, R - V_A[:, None])


def test_nash_md_charges_the_kl_to_go():
  """The best response to the reference over whole texts, token by token.

  P(beats the reference) takes the place of r and tau that of beta: credits are
  again advantages, if each token pays for its own KL and all that follow.
  """
  wins = t.bradley_terry(R[A, B]) @ (FIRST[A] * SECOND[A, B])
  table = t.Table(
    Feedback.PROBABILITY, np.arange(9)[:, None], wins[:, None], np.ones(9)
  )

  def loss(params):
    logps = token_logps(**normalised(params))
    chance = jnp.exp(lax.stop_gradient(logps.sum(-1)))
    x = observe(table, logps, weight=chance)
    return b.expected("nash_md", x, tau=BETA)

  first, second = credits(b.settle(loss, START, rate=3.0))
  q = wins.reshape(3, 3)
  v_a = BETA * np.log(np.sum(SECOND * np.exp(q / BETA), axis=1))
  v = BETA * np.log(FIRST @ np.exp(v_a / BETA))
  b.near(first, v_a - v)
  b.near(second, q - v_a[:, None])


def test_ppo_values_and_credits():
  """Every delta is 0 at the optimum, along every text, for any lambda.

  delta_2 = r - beta log(p / reference)(b | a) - V(a), delta_1 = V(a) - beta
  log(p / reference)(a) - V. The policy is kept as the logits of whole texts,
  whose natural gradient is known; see rollouts_test.py for the step sizes.
  """
  table = t.Table(
    Feedback.SCORE, np.arange(9)[:, None], R[A, B][:, None], np.ones(9)
  )

  def split(texts):
    joint = jax.nn.log_softmax(texts).reshape(3, 3)
    first = jax.nn.logsumexp(joint, axis=1)
    return {"first": first, "second": joint - first[:, None]}

  def loss(params):
    value = params["value"]
    values = jnp.stack([jnp.broadcast_to(value[3], (9,)), value[A]], axis=-1)
    logps = token_logps(**split(params["policy"]))[:, None]
    fields = {
      "values": values[:, None],
      "old_values": lax.stop_gradient(values)[:, None],
      "sampler_logps": lax.stop_gradient(logps),
      "weight": jnp.exp(lax.stop_gradient(logps.sum((1, 2)))),
    }
    x = observe(table, logps[:, 0], **fields)
    return b.expected("ppo", x, kl_coef=BETA, value_coef=150.0)

  start = {"policy": REFERENCE.sum(-1), "value": np.zeros(4)}
  got = b.settle(loss, start, rate=0.02, decay=0.995, natural=True)
  first, second = credits(split(got["policy"]))
  b.near(first, V_A - V)
  b.near(second, R - V_A[:, None])
  b.near(got["value"], [*V_A, V])
