"""GSPO: one ratio a sample, the exponential of its mean log-ratio."""

import numpy as np

from tests.methods import groups as g
from tests.methods import tokens as t

MEAN = g.sequence_means(g.LOGRATIO)  # [.22 / 3, -.4], [.15, .4 / 3]
A = g.ADVANTAGES[..., 0]


def test_mean_log_ratios():
  t.close(MEAN, [[0.22 / 3, -0.4], [0.15, 0.4 / 3]])


def test_advantages_are_those_of_grpo():
  t.close(g.advantages("gspo"), g.advantages("grpo"))


def test_clipped_loss_by_hand():
  """1.2 is gained below 1.1, -1.2 lost above .9; -.7 is not, .7 is clipped."""
  want = [
    [-1.2 * np.exp(0.22 / 3), 1.2 * 0.9],
    [0.7 * np.exp(0.15), -0.7 * 1.1],
  ]
  t.close(want, g.clipped(MEAN, 0.1, 0.1, A))
  out = t.run("gspo", g.step(), clip_low=0.1, clip_high=0.1)
  t.close(out.loss, np.sum(want, -1))
  np.testing.assert_array_equal(out.weight, [2, 2])
  t.close(out.metrics["policy/clip_fraction"], [1 / 4, 3 / 5])


def test_defaults_clip_within_a_thousandth():
  got = t.value("gspo", g.step())
  t.close(got, np.mean(g.clipped(MEAN, 3e-4, 4e-4, A)))


def test_kl_is_a_token_mean():
  x = g.step(reference=True)
  got = t.value("gspo", x, beta=0.3, clip_low=0.1, clip_high=0.1)
  want = g.clipped(MEAN, 0.1, 0.1, A) + 0.3 * g.sequence_means(g.k3())
  t.close(got, np.mean(want))


def test_one_token_is_grpo():
  x = t.prompts(g.step(), 0)
  x = t.completions(x, 1)
  x = t.completions(x, 0, 0)
  keywords = dict(beta=0.0, clip_low=0.2, clip_high=0.2)
  t.close(t.value("gspo", x, **keywords), t.value("grpo", x, **keywords))


def test_gradient_is_shared_by_the_tokens():
  keywords = dict(clip_low=0.1, clip_high=0.1)
  got = t.gradient("gspo", g.step(), **keywords)
  unclipped = np.array([[1, 0], [1, 0]])
  slope = -A * np.exp(MEAN) * unclipped / g.MASK.sum(-1) / 4
  t.close(got, slope[..., None] * g.MASK)
  t.check_gradient("gspo", g.step(reference=True), beta=0.3, **keywords)


def test_importance_weights_are_each_tokens_own():
  """A ratio for all, but a weight for each: the paper's GSPO-token."""
  weights = np.array([[[2, 0.5, 1], [1, 9, 9]], [[0.5, 1.5, 9], [1, 2, 0.5]]])
  x = g.step().replace(advantages=g.ADVANTAGES * weights)
  got = t.gradient("gspo", x, clip_low=0.5, clip_high=0.5)
  slope = -(A * np.exp(MEAN) / g.MASK.sum(-1))[..., None] * weights / 4
  t.close(got, slope * g.MASK)


def test_at_ratio_one_it_is_grpo():
  x = g.step().replace(sampler_logps=g.step().policy_logps)
  t.close(t.gradient("gspo", x), t.gradient("grpo", x, beta=0.0))
