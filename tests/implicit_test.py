"""Rewards of trained models against the metrics of their own methods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods import inputs
from tests.methods.outputs import QUICK
from tests.methods.variants import EAGER, make
from xpo_jax import implicit, methods
from xpo_jax.errors import XpoError
from xpo_jax.types import Feedback

# (method, keyword) -> other values: what changes a reward.
CHANGES = {
  ("dpo", "length_norm"): (True,),
  ("dpo", "reference_free"): (True,),
  ("f_dpo", "divergence"): ("forward_kl", "jsd", "alpha"),
  ("h_dpo", "alpha"): (0.5,),
  ("ipo", "length_norm"): (True,),
  ("rm_token", "aggregate"): ("mean",),
  ("rso", "loss"): ("hinge",),
  ("slic", "length_norm"): (True,),
}
# Their metrics are other numbers than the rewards of a prompt's completions.
OTHERWISE = ("orpo", "d2o")


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def trials(method):
  """(settings, x) of a kind of feedback that ranks, under each change."""
  ranking = (Feedback.ORDER, Feedback.SCORE, Feedback.PROBABILITY)
  cases = [
    (kind, k)
    for kind, k in inputs.cases(method, method.keywords)
    if kind in ranking and k > 1
  ]
  changes = [{}] + [
    {keyword: value}
    for (name, keyword), values in CHANGES.items()
    for value in values
    if name == method.id
  ]
  for change in changes if cases else ():
    settings = method.settings(change)
    yield settings, make(method, cases[0], settings, **EAGER)


def best_and_worst(x, rewards):
  feedback, present = np.asarray(x.feedback), np.asarray(x.present)
  best = np.argmax(np.where(present, feedback, -np.inf), axis=-1)
  worst = np.argmin(np.where(present, feedback, np.inf), axis=-1)
  rows = np.arange(len(feedback))
  return rewards[rows, best], rewards[rows, worst]


def test_rewards_are_those_of_the_metrics(x64):
  compared = []
  for name in methods.names():
    method = methods.get(name)
    if "token_feedback" in method.needs({}) or name in OTHERWISE:
      continue
    for settings, x in trials(method):
      reward = implicit.define(method, settings)
      both = lambda x: (reward(x), method.loss(x, **settings).metrics)
      (rewards, credits), metrics = jax.jit(both, compiler_options=QUICK)(x)
      if reward.splits:
        assert not np.any(np.asarray(credits)[~np.asarray(x.completion_mask)])
        close = dict(rtol=1e-12, atol=1e-14, err_msg=name)
        np.testing.assert_allclose(np.sum(credits, axis=-1), rewards, **close)
      if "rewards/chosen" in metrics:
        found = best_and_worst(x, np.asarray(rewards))
        wanted = [metrics[f"rewards/{k}"] for k in ("chosen", "rejected")]
        np.testing.assert_allclose(found, wanted, rtol=1e-9, err_msg=name)
        compared.append(name)
  assert len(compared) >= 40 and len(set(compared)) >= 30, compared


def one(reference=((-1.0, -3.0, -2.0), (-4.0, -1.0, 0.0))):
  """One prompt: completions of 3 and 2 tokens, log-probs to read by eye."""
  x = inputs.from_sums(
    [[0.0, 0.0]],
    lengths=[[3, 2]],
    kind=Feedback.ORDER,
    feedback=[[1.0, 0.0]],
  )
  pad = lambda rows: jnp.asarray([[(*row, 7.0) for row in rows]])
  return x.replace(
    policy_logps=pad(((-0.5, -3.5, -1.0), (-2.0, -3.0, 9.0))),
    reference_logps=pad(reference),
  )


@pytest.mark.parametrize(
  "name, keywords, rewards, credits",
  [
    # u = (.5 - .5 + 1, 2 - 2), S = (-5, -5), A = (-5/3, -5/2).
    ("dpo", {"beta": 0.2}, (0.2, 0.0), ((0.1, -0.1, 0.2), (0.4, -0.4))),
    ("ipo", {"tau": 3.0, "length_norm": True}, (1.0, 0.0),
     ((0.5, -0.5, 1.0), (3.0, -3.0))),
    ("cpo", {"beta": 0.2}, (-1.0, -1.0), ((-0.1, -0.7, -0.2), (-0.4, -0.6))),
    ("simpo", {"beta": 6.0}, (-10.0, -15.0), ((-1, -7, -2), (-6, -9))),
    ("cringe", {}, (-5.0, -5.0), ((-0.5, -3.5, -1.0), (-2.0, -3.0))),
    ("sppo", {"eta": 4.0}, (0.25, 0.0), ((0.125, -0.125, 0.25), (0.5, -0.5))),
    # 2 S - R of each token, halved.
    ("h_dpo", {"beta": 0.5, "alpha": 2.0}, (-2.0, -2.5),
     ((0.0, -2.0, 0.0), (0.0, -2.5))),
  ],
)  # fmt: skip
def test_by_hand(name, keywords, rewards, credits):
  method = methods.get(name)
  found, parts = implicit.define(method, method.settings(keywords))(one())
  np.testing.assert_allclose(found, [rewards], atol=1e-6)
  for k, part in enumerate(credits):
    whole = [*part, *[0.0] * (4 - len(part))]
    np.testing.assert_allclose(parts[0, k], whole, atol=1e-6)


def test_odds_and_links_belong_to_whole_completions():
  method = methods.get("orpo")
  reward = implicit.define(method, method.settings({}))
  rewards, credits = reward(one())
  p = np.exp([-5 / 3, -5 / 2])
  np.testing.assert_allclose(rewards, [np.log(p / (1 - p))], rtol=1e-6)
  assert credits is None and not reward.splits
  assert reward.words == "log-odds of the mean over tokens of log pi"
  method = methods.get("f_dpo")
  settings = method.settings({"divergence": "forward_kl", "beta": 0.1})
  rewards, credits = implicit.define(method, settings)(one())
  np.testing.assert_allclose(rewards, [[-0.1 * np.exp(-1.0), -0.1]], rtol=1e-6)
  assert credits is None


def test_another_beta_takes_the_place_of_the_runs():
  method = methods.get("sppo")
  reward = implicit.define(method, method.settings({}), beta=2.0)
  np.testing.assert_allclose(reward(one())[0], [[2.0, 0.0]], atol=1e-6)
  assert reward.words == "2 x sum over tokens of (log pi - log ref)"


def test_a_constant_of_the_prompt_changes_no_margin():
  """Z(x): log-ratios shifted alike by a shift of both completions."""
  method = methods.get("dpo")
  reward = implicit.define(method, method.settings({}))
  shifted = one(reference=((-1.0, -3.0, -2.5), (-4.5, -1.0, 0.0)))
  before, after = reward(one())[0], reward(shifted)[0]
  np.testing.assert_allclose(after - before, [[0.05, 0.05]], atol=1e-6)


def test_reward_models_have_heads():
  method = methods.get("rm_token")
  x = one().replace(token_scores=one().policy_logps, policy_logps=None)
  rewards, credits = implicit.define(method, {"aggregate": "mean"})(x)
  np.testing.assert_allclose(rewards, [[-5 / 3, -5 / 2]], rtol=1e-6)
  np.testing.assert_allclose(credits[0, 1], [-1.0, -1.5, 0.0, 0.0])
  method = methods.get("rm_prm")
  with pytest.raises(XpoError, match="scores the steps of a solution"):
    implicit.define(method, method.settings({}))
