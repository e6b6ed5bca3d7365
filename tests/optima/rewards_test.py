"""Reward models: a table of scores fitted to exact label probabilities."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests.optima import bandit as b
from tests.optima import tables as t
from xpo_jax.types import Feedback

R = t.REWARDS


def fitted(name, table, start, fields, **keywords) -> np.ndarray:
  """The parameters where a reward model stops.

  Args:
    name: the method.
    table: the data.
    start: the parameters to begin with.
    fields: from the parameters to fields of LossInputs.
    **keywords: of the method.
  """

  def loss(params):
    x = b.observe(table, jnp.zeros(table.arms.max() + 1), **fields(params["r"]))
    return b.expected(name, x, **keywords)

  return b.settle(loss, {"r": jnp.asarray(start)}, rate=1.0)["r"]


def arm_scores(table):
  return lambda r: {"scores": r[table.arms]}


def differences(scores) -> np.ndarray:
  return scores[:, None] - scores[None, :]


def test_bradley_terry_rewards():
  """All differences, from labels drawn with P = sigma(r_i - r_j)."""
  table = t.pairs(t.bradley_terry())
  got = fitted("rm_bt", table, np.zeros(4), arm_scores(table))
  b.near(differences(got), differences(R))


def test_soft_labels_say_the_same():
  table = t.pairs(np.full((4, 4), 0.5))
  wins = t.bradley_terry()[tuple(table.arms.T)]
  soft = np.stack([wins, 1 - wins], -1)
  table = dataclasses.replace(table, kind=Feedback.PROBABILITY, feedback=soft)
  got = fitted("rm_bt", table, np.zeros(4), arm_scores(table))
  b.near(differences(got), differences(R))


def test_a_margin_is_added_to_the_gap():
  """The gap r_i - r_j = m + log-odds, m the margin wanted of i over j.

  A pair labelled the other way round has the margin -m.
  """
  table, margin = t.chain(), np.array([0.3, 1.0, 0.0])
  signed = np.concatenate([margin, -margin])[:, None] * [1.0, 0.0]
  table = dataclasses.replace(table, kind=Feedback.MARGIN, feedback=signed)
  got = fitted("rm_bt", table, np.zeros(4), arm_scores(table))
  b.near(got[:-1] - got[1:], margin + t.logit(t.CHAIN))


def test_centering_picks_the_level():
  """Two arms: scores +-log-odds / 2, where their sum is 0 and the gap free."""
  table = t.chain([0.8])
  got = fitted(
    "rm_bt", table, np.array([3.0, 2.0]), arm_scores(table), centering=0.1
  )
  b.near(got, t.logit(0.8) / 2 * np.array([1.0, -1.0]))


@pytest.mark.parametrize("pair_weighting", ["prompt_mean", "pair_mean"])
def test_rankings(pair_weighting):
  """Plackett-Luce orders: i is above j with probability sigma(r_i - r_j)."""
  table = t.rankings()
  keywords = {"pair_weighting": pair_weighting}
  got = fitted("rm_kwise", table, np.zeros(4), arm_scores(table), **keywords)
  b.near(differences(got), differences(R))


def test_one_self_sample_is_a_pair():
  table = t.pairs(t.bradley_terry())
  signs = np.tile([1.0, -1.0], (12, 1))
  table = dataclasses.replace(table, kind=Feedback.BINARY, feedback=signs)
  got = fitted("rm_negative", table, np.zeros(4), arm_scores(table))
  b.near(differences(got), differences(R))


def test_only_the_pairwise_model_learns_a_cycle():
  """It recovers P itself; the best rewards of a fair cycle are all equal.

  Rock beats scissors beat paper beats rock, nine times out of ten.
  """
  arms = np.array([[0, 1], [1, 2], [2, 0]])
  wins = np.full(3, 0.9)
  third = np.full(3, 1 / 3)
  soft = np.stack([wins, 1 - wins], -1)
  table = t.Table(Feedback.PROBABILITY, arms, soft, third)
  got = fitted("rm_bt", table, np.array([0.3, -0.2, 0.1]), arm_scores(table))
  b.near(differences(got), np.zeros((3, 3)))

  # A prompt shows one ordered pair; its two answers are "first" and "second".
  answers, odds = np.tile([0, 1], (3, 1)), lambda f: jnp.stack([f, -f], -1)
  logps = lambda f: {"policy_logps": -jnp.logaddexp(0.0, -odds(f))[..., None]}
  table = t.Table(Feedback.PROBABILITY, answers, soft, third)
  b.near(t.sigma(fitted("rm_pairwise", table, np.zeros(3), logps)), wins)


def test_tokens_of_texts_of_unlike_length():
  """Sums of token rewards fix even their level: a text more is worth w.

  Texts a, b, aab and bb over two tokens of reward w_a and w_b.
  """
  words = np.array([[1, 0], [0, 1], [2, 1], [0, 2]])  # counts of a and b
  w = np.array([0.6, -0.3])
  table = t.pairs(t.bradley_terry(words @ w))
  tokens = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1], [1, 1, 0]])[table.arms]
  fields = lambda r: {"token_scores": r[tokens], "lengths": words.sum(1)}
  got = fitted("rm_token", table, np.zeros(2), fields)
  b.near(got, w)
  mean = words / words.sum(1, keepdims=True)
  table = t.pairs(t.bradley_terry(mean @ w))
  got = fitted("rm_token", table, np.zeros(2), fields, aggregate="mean")
  b.near(got[0] - got[1], w[0] - w[1])


@pytest.mark.parametrize("dense", [False, True])
def test_outcomes(dense):
  """The log-odds of being right."""
  good = np.array([0.3, 0.9, 0.6, 0.5])
  table = t.labels(good, t.DRAWS)
  name, shape = ("token_scores", (8, 1, 1)) if dense else ("scores", (8, 1))
  fields = lambda r: {name: jnp.reshape(r[table.arms], shape)}
  got = fitted("rm_orm", table, np.zeros(4), fields, dense=dense)
  b.near(got, t.logit(good))


def test_steps():
  """The log-odds of each step being right; a step label may be soft."""
  good = np.array([0.3, 0.9, 0.6, 0.5])
  arms = np.arange(4)[:, None]
  table = t.Table(Feedback.BINARY, arms, np.ones((4, 1)), t.DRAWS)
  fields = lambda r: {
    "token_scores": r[arms][..., None],
    "token_feedback": jnp.asarray(good[arms][..., None]),
  }
  got = fitted("rm_prm", table, np.zeros(4), fields)
  b.near(got, t.logit(good))
