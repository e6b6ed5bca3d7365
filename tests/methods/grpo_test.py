"""GRPO: group-normalised rewards, a mean over samples of token means."""

import numpy as np
import pytest

from tests.methods import groups as g
from tests.methods import tokens as t
from xpo_jax.types import Feedback

GOLDEN = [1.30530975, -0.78318585, -0.78318585, 0.26106195]


def test_advantages_golden():
  got = g.advantages("grpo")
  deviation = np.sqrt(np.sum((g.R - 0.375) ** 2) / 3)
  t.close(got, (g.R - 0.375) / (deviation + 1e-4))
  t.close(got, GOLDEN, atol=1e-8)
  t.close(got.sum(), 0.0)
  got = g.advantages("grpo", std_ddof=0)
  t.close(got, [1.50719317, -0.9043159, -0.9043159, 0.30143863], atol=1e-8)
  got = g.advantages("grpo", std_eps=0.5)
  t.close(got, (g.R - 0.375) / (deviation + 0.5))


def test_advantages_ignore_shift_and_scale():
  got = g.advantages("grpo", 3 * g.R - 5, std_eps=1e-9)
  t.close(got, g.advantages("grpo", std_eps=1e-9), atol=1e-7)


def test_groups_without_contrast_are_silent():
  t.close(g.advantages("grpo", [0.1] * 4), np.zeros(4), atol=1e-10)
  one = g.advantages("grpo", present=[0, 1, 0, 0])
  t.close(one, np.zeros(4))


def test_absent_samples_are_in_no_statistic():
  rewards = np.array([1.0, 50.0, 0.0, 0.5])
  got = g.advantages("grpo", rewards, present=[1, 0, 1, 1])
  want = g.advantages("grpo", rewards[[0, 2, 3]])
  t.close(got, np.insert(want, 1, 0.0))


def test_clipped_loss_is_a_mean_over_samples():
  got = t.value("grpo", g.step(), beta=0.0, clip_high=0.28)
  tokens = g.clipped(g.LOGRATIO, 0.2, 0.28)
  t.close(got, np.mean(g.sequence_means(tokens)))
  out = t.run("grpo", g.step(), beta=0.0)
  np.testing.assert_array_equal(out.weight, [2, 2])
  t.close(t.value("grpo", g.reductions(), beta=0.0), 3.0)


@pytest.mark.parametrize("kind", ["k3", "k2"])
def test_kl_in_the_loss(kind):
  kl = {"k3": np.exp(-g.D) - 1 + g.D, "k2": g.D**2 / 2}[kind]
  tokens = g.clipped(g.LOGRATIO, 0.2, 0.2) + 0.3 * kl
  got = t.value("grpo", g.step(reference=True), beta=0.3, kl_loss=kind)
  t.close(got, np.mean(g.sequence_means(tokens)))


def test_kl_in_the_reward():
  x = g.step(reference=True)
  keywords = dict(beta=0.3, kl_loss="k1_reward")
  kl = np.sum(np.where(g.MASK, g.D - g.LOGRATIO, 0.0), -1)
  rewards = np.array([[1.0, 0.0], [0.0, 1.0]]) - 0.3 * kl
  gap = rewards[:, 0] - rewards[:, 1]
  got = np.asarray(g.prepared("grpo", x, **keywords).advantages)[..., 0]
  want = gap / 2 / (np.abs(gap) / np.sqrt(2) + 1e-4)
  t.close(got, np.stack([want, -want], -1))
  without = t.value("grpo", g.step(), beta=0.0)
  t.close(t.value("grpo", x, **keywords), without)


def test_the_first_step_is_a_policy_gradient():
  x = g.step().replace(sampler_logps=g.step().policy_logps)
  got = t.gradient("grpo", x, beta=0.0)
  want = -g.ADVANTAGES / g.MASK.sum(-1, keepdims=True) / 4
  t.close(got, np.where(g.MASK, want, 0.0))


def test_equal_lengths_make_sequence_and_token_means_equal():
  x = t.from_arrays(
    Feedback.SCORE,
    [[1.0, 0.0]],
    policy_logps=[[[-1.0, -0.5], [-0.2, -0.9]]],
    sampler_logps=[[[-1.2, -0.4], [-0.3, -0.1]]],
    advantages=[[[0.5, 0.5], [-0.5, -0.5]]],
  )
  keywords = dict(beta=0.0, clip_high=0.28)
  t.close(t.value("grpo", x, **keywords), t.value("dapo", x, **keywords))


def test_gradient():
  t.check_gradient("grpo", g.step(reference=True), beta=0.3)
  t.check_gradient("grpo", g.step(reference=True), beta=0.3, kl_loss="k2")
