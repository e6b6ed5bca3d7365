"""RLOO: each sample against the mean of the prompt's others."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods import groups, inputs
from tests.methods import tokens as t
from xpo_jax.types import Feedback

R = np.array([1.0, 0.0, 0.0, 0.5])  # methods.md 16.4
GOLDEN = [0.8333333333, -0.5, -0.5, 0.1666666667]


def group(rewards=R, logps=None, **fields):
  k = len(rewards)
  if logps is None:
    logps = np.array([-1.0, -0.4])[None] - 0.1 * np.arange(k)[:, None]
  return t.from_arrays(
    Feedback.SCORE, [rewards], policy_logps=[logps], **fields
  )


def advantages(x, beta=0.0):
  column = np.asarray(groups.prepared("rloo", x, **{"beta": beta}).advantages)
  mask = np.asarray(x.completion_mask)
  first = column[..., :1]
  t.close(column, np.where(mask, first, 0.0))  # the same on every token
  return first[0, :, 0]


def loss(x, **keywords):
  keywords = dict(beta=0.0) | keywords
  x = groups.prepared("rloo", x, **keywords)
  return t.value("rloo", x, **keywords)


def test_golden():
  got = advantages(group())
  t.close(got, GOLDEN)
  t.close(got, 4 / 3 * (R - R.mean()))
  t.close(got.sum(), 0.0)


def test_shift_and_equal_rewards():
  t.close(advantages(group(R + 7)), GOLDEN)
  t.close(advantages(group([0.3] * 4)), np.zeros(4))


def test_a_pair_is_a_linear_contrast():
  x = group([0.9, 0.2])
  s = np.array([-1.4, -1.6])
  t.close(advantages(x), [0.7, -0.7])
  t.close(loss(x), -0.5 * 0.7 * (s[0] - s[1]))


def test_the_kl_of_the_whole_sample_is_in_the_reward():
  sampler = np.array([[[-1.0, -0.5], [-0.2, -0.3]]])
  reference = np.array([[[-1.5, -0.4], [-0.1, -0.9]]])
  x = group([0.9, 0.2], sampler_logps=sampler, reference_logps=reference)
  kl = [0.5 - 0.1, -0.1 + 0.6]
  gap = 0.9 - 0.3 * kl[0] - (0.2 - 0.3 * kl[1])
  t.close(advantages(x, beta=0.3), [gap, -gap])


def test_absent_samples_are_no_baseline():
  x = t.absent(group(), (0, 1))
  r = np.array([1.0, 0.0, 0.5])
  got = advantages(x)
  t.close(got, np.insert(r - (r.sum() - r) / 2, 1, 0.0))
  out = t.run("rloo", groups.prepared("rloo", x, **{"beta": 0.0}), beta=0.0)
  np.testing.assert_array_equal(out.weight, [3.0])
  t.close(advantages(t.absent(group(), (0, 1), (0, 2), (0, 3))), np.zeros(4))


def clipped_group():
  x = group(sampler_logps=np.array([[[-1.2, -0.1]] * 4]))
  return groups.prepared("rloo", x, **{"beta": 0.0})


def test_clipped_form():
  x = clipped_group()
  s = -1.4 - 0.2 * np.arange(4)
  ratio = np.exp(s + 1.3)
  a = np.array(GOLDEN)
  want = np.maximum(-a * ratio, -a * np.clip(ratio, 0.8, 1.3))
  keywords = dict(beta=0.0, clip_low=0.2, clip_high=0.3)
  t.close(t.value("rloo", x, **keywords), np.mean(want))
  t.check_gradient("rloo", x, **keywords)


def test_at_ratio_one_the_clipped_gradient_is_the_plain_one():
  x = clipped_group()
  x = x.replace(sampler_logps=x.policy_logps)
  plain = t.gradient("rloo", x.replace(sampler_logps=None), beta=0.0)
  want = -np.array(GOLDEN)[None, :, None] / 4 * np.ones((1, 4, 2))
  t.close(plain, want)
  keywords = dict(beta=0.0, clip_low=0.2, clip_high=0.2)
  t.close(t.gradient("rloo", x, **keywords), want)


WEIGHTS = np.array([[2.0, 0.5], [1.0, 1.5], [0.25, 1.0], [0.75, 0.25]])


def weighted(x):
  """Advantages times importance weights, as a rollout leaves them."""
  return x.replace(advantages=x.advantages * WEIGHTS[None])


def test_importance_weights_are_each_tokens_own():
  """-A sum_t w_t logp_t, and not A times the mean weight times S."""
  a = np.array(GOLDEN)[:, None]
  x = weighted(clipped_group())
  logps = np.asarray(x.policy_logps)[0]
  got = t.value("rloo", x, beta=0.0)
  t.close(got, -np.mean(np.sum(a * WEIGHTS * logps, -1)))
  t.close(t.gradient("rloo", x, beta=0.0), [-a * WEIGHTS / 4])


def test_importance_weights_of_the_clipped_form():
  """The slope of A rho S, token by token; 0 beyond the clip range."""
  a, x = np.array(GOLDEN), weighted(clipped_group())
  ratio = np.exp(-0.1 - 0.2 * np.arange(4))
  inside = [1, 0, 0, 1]  # -.5 at .74 and .61 is clipped: it is below .8
  keywords = dict(beta=0.0, clip_low=0.2, clip_high=0.3)
  mean = a * WEIGHTS.mean(-1)
  want = np.maximum(-mean * ratio, -mean * np.clip(ratio, 0.8, 1.3))
  t.close(t.value("rloo", x, **keywords), np.mean(want))
  slope = -(a * ratio * inside)[:, None] * WEIGHTS / 4
  t.close(t.gradient("rloo", x, **keywords), [slope])
  even = x.replace(advantages=0.0 * x.advantages)
  t.close(t.gradient("rloo", even, **keywords), np.zeros((1, 4, 2)))


@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_unbiased(beta):
  """All groups of two, each as often as the policy draws it."""
  logits = jnp.asarray([0.3, -0.5, 1.1])
  r, reference = np.array([1.0, 0.2, -0.6]), np.array([0.5, 0.2, 0.3])
  p = np.exp(logits) / np.sum(np.exp(logits))
  drawn = np.array(list(itertools.product(range(3), repeat=2)))
  chance = np.prod(p[drawn], -1)
  fields = (
    {}
    if not beta
    else {
      "sampler_logps": np.log(p)[drawn][..., None],
      "reference_logps": np.log(reference)[drawn][..., None],
    }
  )
  x = t.from_arrays(
    Feedback.SCORE,
    r[drawn],
    policy_logps=np.log(p)[drawn][..., None],
    **fields,
  )
  x = groups.prepared("rloo", x, **{"beta": beta})
  x = x.replace(weight=jnp.asarray(chance * len(drawn)))

  def sampled(logits):
    logps = jax.nn.log_softmax(logits)[drawn][..., None]
    return inputs.total(t.run("rloo", x.replace(policy_logps=logps), beta=beta))

  def exact(logits):
    p = jax.nn.softmax(logits)
    return -(p @ r - beta * p @ jnp.log(p / reference))

  t.close(jax.grad(sampled)(logits), jax.grad(exact)(logits))
