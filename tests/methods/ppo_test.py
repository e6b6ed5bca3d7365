"""PPO: prepare makes whitened GAE and returns, the loss clips both heads."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods import groups
from tests.methods import tokens as t
from xpo_jax.methods import registry
from xpo_jax.types import Feedback

PPO = registry.get("ppo")
RETURNS = np.array([0.8576, 0.908, 0.94, 1.0])  # methods.md 16.4
WHITE = np.array([-0.19381969, -0.70517375, 1.68664365, -0.78765021])


def rollout(score=1.0, logratio=(0.02, -0.01, 0.03, 0.0), **fields):
  """One sample of four tokens; kl_coef 1 gives 16.4's rewards."""
  reference = np.array([[[-1.0, -0.5, -2.0, -0.7]]])
  return t.from_arrays(
    Feedback.SCORE,
    [[score]],
    **{
      "policy_logps": reference,
      "reference_logps": reference,
      "sampler_logps": reference + np.asarray(logratio),
      "old_values": [[[0.2, 0.3, 0.1, 0.4]]],
    }
    | fields,
  )


def prepared(x, **keywords):
  return groups.prepared("ppo", x, **keywords)


def test_prepare_golden():
  x = prepared(rollout(), kl_coef=1.0)
  t.close(x.token_feedback[0, 0], RETURNS)
  t.close(x.advantages[0, 0], WHITE, atol=1e-6)


def test_rewards_add_up_to_the_score_minus_the_kl():
  """With V = 0, gamma = lambda = 1 the first return is their sum."""
  x = rollout(score=0.7, old_values=np.zeros((1, 1, 4)))
  x = prepared(x, kl_coef=0.5, gae_lambda=1.0)
  t.close(x.token_feedback[0, 0, 0], 0.7 - 0.5 * 0.04)
  t.close(x.token_feedback[0, 0, 3], 0.7)


@pytest.mark.parametrize(
  "change", [dict(kl_coef=0.0), dict(logratio=np.zeros(4))]
)
def test_without_kl_only_the_score_counts(change):
  keywords = {k: v for k, v in change.items() if k == "kl_coef"}
  fields = {k: v for k, v in change.items() if k != "kl_coef"}
  x = rollout(old_values=np.zeros((1, 1, 4)), **fields)
  x = prepared(x, gamma=0.9, gae_lambda=1.0, **keywords)
  t.close(x.token_feedback[0, 0], [0.9**3, 0.9**2, 0.9, 1.0])


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_kinds_in_the_reward(kind):
  d = np.array([0.3, -0.2, 0.1, 0.0])
  kl = {"k1": d, "k2": d**2 / 2, "k3": np.exp(-d) - 1 + d}[kind]
  x = rollout(logratio=d, old_values=np.zeros((1, 1, 4)))
  x = prepared(x, kl_coef=0.5, kl_kind=kind, gae_lambda=0.0)
  t.close(x.token_feedback[0, 0], -0.5 * kl + [0, 0, 0, 1.0])


def test_rewards_of_single_tokens_come_on_top():
  x = rollout(token_feedback=[[[0.1, 0.2, 0.3, 0.4]]])
  x = prepared(x, kl_coef=0.0, gae_lambda=0.0)
  after = [0.3, 0.1, 0.4, 0.0]
  t.close(x.token_feedback[0, 0], np.array([0.1, 0.2, 0.3, 1.4]) + after)


def test_whitening_runs_over_the_whole_rollout_and_skips_padding():
  """Two samples, padding on both sides, an absent one and an empty slot."""
  one = prepared(rollout(), kl_coef=1.0, gae_lambda=1.0)
  advantage = np.asarray(one.token_feedback - one.old_values)[0, 0]

  def wide(a):
    rows = np.full((2, 2, 6), 50.0)
    rows[0, 0, 1:5] = np.asarray(a)[0, 0]
    rows[0, 1, :4] = np.asarray(a)[0, 0]
    rows[1, 0, :4] = 9.0
    return rows

  mask = np.zeros((2, 2, 6), bool)
  mask[0, 0, 1:5] = mask[0, 1, :4] = mask[1, 0, :4] = True
  x = t.from_arrays(
    Feedback.SCORE,
    [[1.0, 3.0], [5.0, 5.0]],
    mask=mask,
    **{
      f: wide(getattr(rollout(), f))
      for f in "policy_logps reference_logps sampler_logps old_values".split()
    },
  ).replace(weight=jnp.asarray([2.0, 0.0]))
  x = prepared(t.absent(x, (1, 1)), kl_coef=1.0, gae_lambda=1.0)
  both = np.concatenate([advantage, advantage + 2.0])
  white = (both - both.mean()) / np.sqrt(both.var() + 1e-8)
  t.close(x.advantages[0, 0], [0, *white[:4], 0])
  t.close(x.advantages[0, 1], [*white[4:], 0, 0])
  t.close(x.advantages[1], np.zeros((2, 6)))


def step(logratio, advantages, values=None, **fields):
  """Inputs of one epoch, after prepare."""
  zero = np.zeros((1, 1, len(logratio)))
  sampler = zero - 1.0
  given = {
    "policy_logps": sampler + np.asarray(logratio),
    "sampler_logps": sampler,
    "advantages": zero + np.asarray(advantages),
    "values": zero if values is None else zero + np.asarray(values),
    "old_values": zero,
    "token_feedback": zero,
  }
  return t.from_arrays(Feedback.SCORE, [[1.0]], **given | fields)


def loss(x, **keywords):
  keywords = dict(kl_coef=0.0) | keywords
  return t.value("ppo", x, **keywords)


CASE = dict(logratio=[0.3, -0.1, 0.05, -0.4], advantages=[1.0, -1.0, 0.5, -2.0])


def test_policy_loss_golden():
  t.close(loss(step(**CASE)), 0.1948004675)
  t.close(loss(step(**CASE), clip_high=0.28), 0.1748004675)
  out = t.run("ppo", step(**CASE), kl_coef=0.0)
  t.close(out.metrics["policy/clip_fraction"], [0.5])
  np.testing.assert_array_equal(out.weight, [4.0])
  t.close(loss(step([1.5], [-2.0])), 8.9633781401)
  t.close(loss(step([1.5], [-2.0]), dual_clip=3.0), 6.0)


def test_value_loss_golden():
  x = step(
    [0.0, 0.0],
    [0.0, 0.0],
    values=[0.5, -0.2],
    old_values=[[[0.1, 0.0]]],
    token_feedback=[[[0.9, -0.5]]],
  )
  t.close(loss(x, value_coef=1.0), (0.18 + 0.045) / 2)
  t.close(loss(x, value_coef=0.3), 0.3 * (0.18 + 0.045) / 2)
  plain = (0.4**2 / 2 + 0.3**2 / 2) / 2
  t.close(loss(x, value_coef=1.0, value_clip=float("inf")), plain)
  exact = x.replace(token_feedback=x.values)
  t.close(loss(exact, value_clip=float("inf")), 0.0)


def test_value_gradient_stops_at_the_clip():
  """V = .5 is clipped to .3 away from .9: no pull; -.2 is within."""
  x = step(
    [0.0, 0.0],
    [0.0, 0.0],
    values=[0.5, -0.15],
    old_values=[[[0.1, 0.0]]],
    token_feedback=[[[0.9, -0.5]]],
  )
  got = t.gradient("ppo", x, "values", kl_coef=0.0, value_coef=1.0)
  t.close(got[0, 0], [0.0, 0.35 / 2])


def test_the_first_step_is_a_policy_gradient():
  white = WHITE - WHITE.mean()
  x = step(np.zeros(4), white)
  t.close(loss(x), 0.0)  # -mean(A)
  got = t.gradient("ppo", x, kl_coef=0.0)
  t.close(got[0, 0], -white / 4)


def test_entropy_bonus():
  x = step(**CASE, entropy=[[[1.0, 2.0, 3.0, 2.0]]])
  t.close(loss(x, entropy_coef=0.1), 0.1948004675 - 0.1 * 2.0)
  t.close(
    t.gradient("ppo", x, "entropy", kl_coef=0.0, entropy_coef=0.1)[0, 0],
    np.full(4, -0.1 / 4),
  )


def test_gradient():
  x = step(
    **CASE,
    values=[0.5, -0.15, 0.05, 0.4],
    old_values=[[[0.1, 0.0, 0.0, 0.3]]],
    token_feedback=[[[0.9, -0.5, 0.2, 0.1]]],
  )
  t.check_gradient("ppo", x, kl_coef=0.0)
  t.check_gradient("ppo", x, "values", kl_coef=0.0)


def test_needs_follow_the_settings():
  base = {"advantages", "sampler_logps", "old_values", "values"}
  base |= {"token_feedback"}
  assert PPO.needs({}) == base | {"reference_logps"}
  assert PPO.needs({"kl_coef": 0.0}) == base
  assert "entropy" in PPO.needs({"entropy_coef": 0.1})
  fields = {f.name for f in dataclasses.fields(rollout())}
  assert PPO.needs({}) <= fields


def spread_out(*kls):
  """A rollout of samples with these KLs to the reference, over four tokens."""
  d = np.asarray(kls, float)[:, None, None] * [0.5, -0.25, 0.5, 0.25]
  zero = np.zeros_like(d)
  return t.from_arrays(
    Feedback.SCORE,
    np.ones((len(kls), 1)),
    policy_logps=zero - 1.0,
    reference_logps=zero - 1.0,
    sampler_logps=d - 1.0,
    old_values=zero,
  )


FIXED = dict(kl_coef=0.2, gae_lambda=1.0)
ADAPTIVE = FIXED | dict(kl_target=6.0, kl_horizon=10_000 * 3 / 256)


@pytest.mark.parametrize(
  "kls, want",
  [((6, 6, 6), 0.2), ((12, 5, 10), 0.201024), ((1, 8, 0), 0.198976)],
)
def test_the_coefficient_follows_the_kl_of_samples(kls, want):
  """methods.md 16.4, with a horizon as long for 3 samples as theirs for 256."""
  x = spread_out(*kls)
  live = x.replace(state={"kl_coef": jnp.asarray(0.2)})
  after = prepared(live, **ADAPTIVE)
  t.close(after.state["kl_coef"], want)
  fixed = prepared(x, **FIXED)
  t.close(after.token_feedback, fixed.token_feedback)  # the next one's, not its
  again = prepared(live.replace(state=after.state), **ADAPTIVE)
  factor = want / 0.2
  t.close(again.state["kl_coef"], want * factor)
  ratio = (again.token_feedback - 1.0) / (fixed.token_feedback - 1.0)
  t.close(ratio[0, 0, 0], factor)
  frozen = prepared(live.replace(train=False), **ADAPTIVE)
  t.close(frozen.state["kl_coef"], 0.2, 0)
  t.close(frozen.advantages, fixed.advantages)


def test_the_loss_hands_the_coefficient_on():
  x = step(**CASE).replace(state={"kl_coef": jnp.asarray(0.3)})
  x = x.replace(reference_logps=x.policy_logps)
  out = t.run("ppo", x, **ADAPTIVE)
  t.close(out.state["kl_coef"], 0.3, 0)
  t.close(out.metrics["kl/coef"], [0.3], 0)
  t.close(out.loss, t.run("ppo", step(**CASE), kl_coef=0.0).loss)


def test_only_a_target_above_a_coefficient_keeps_state():
  start = lambda **k: PPO.init_state(PPO.settings(k))
  t.close(start(kl_target=6.0, kl_coef=0.1)["kl_coef"], 0.1)
  assert start() is None
  assert start(kl_target=6.0, kl_coef=0.0) is None
