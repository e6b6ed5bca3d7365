"""PRO: each completion against all that rank below it."""

import numpy as np
import pytest

from tests.methods import tokens as t
from xpo_jax.types import Feedback

S = np.array([-1.0, -1.1, -1.5])  # methods.md 16.2
PHI = np.array([2.0, 1.8, 0.2])


def lists(s=S, phi=PHI):
  """Mean log-probs s over three tokens."""
  logps = np.asarray(s)[None, :, None] + np.array([0.3, -0.1, -0.2])
  return t.from_arrays(Feedback.SCORE, [phi], policy_logps=logps)


def rank_loss(x, **keywords):
  return t.per_prompt("pro", x, sft_coef=0.0, **keywords)


def lse(*z):
  return np.log(np.sum(np.exp(z)))


def test_golden():
  want = lse(*S) - S[0] + lse(*S[1:]) - S[1]
  t.close(rank_loss(lists(), temperature=False), [want])
  t.close(want, 1.4338429080)
  first = lse(S[0] * 1.8, S[1] * 0.2, S[2] * 1.8) - S[0] * 1.8
  second = lse(S[1] * 1.6, S[2] * 1.6) - S[1] * 1.6
  t.close(rank_loss(lists()), [first + second])
  t.close(first + second, 2.2579203511)


def test_supervised_term():
  """c (K - 1)^2 times the summed NLL of the best."""
  got = t.per_prompt("pro", lists())
  t.close(got, [2.2579203511 + 0.05 * 2**2 * 3.0])
  got = t.per_prompt("pro", lists(), sft_coef=0.2)
  t.close(got, [2.2579203511 + 0.2 * 2**2 * 3.0])


def test_pair():
  x = lists(S[:2], [0.3, 1.1])  # the second is better
  t.close(rank_loss(x, temperature=False), [t.softplus(S[0] - S[1])])
  t.close(rank_loss(x), [t.softplus((S[0] - S[1]) * (1.1 - 0.3))])


def test_without_temperature_it_is_list_mle_on_means():
  logps = S[None, :, None]
  x = t.from_arrays(Feedback.SCORE, [PHI], policy_logps=logps)
  against_zero = x.replace(reference_logps=logps * 0)
  t.close(
    rank_loss(x, temperature=False),
    t.per_prompt("lipo", against_zero, loss="listmle", beta=1.0),
  )


def test_equals_rank_by_index_and_an_anchor_above_equals_only_is_dropped():
  t.close(rank_loss(lists(phi=[1.0, 1.0, 1.0])), [0.0])
  got = rank_loss(lists(phi=[2.0, 1.0, 1.0]))
  t.close(got, [lse(S[0], S[1], S[2]) - S[0]])
  got = rank_loss(lists(phi=[2.0, 2.0, 1.0]))
  t.close(got, [lse(S[0], 0, S[2]) - S[0] + lse(S[1], S[2]) - S[1]])


@pytest.mark.parametrize("temperature", [True, False])
def test_order_and_absence(temperature):
  keywords = dict(temperature=temperature)
  want = t.per_prompt("pro", lists(), **keywords)
  shuffled = t.completions(lists(), 2, 0, 1)
  t.close(t.per_prompt("pro", shuffled, **keywords), want)
  longer = lists([-1.0, -0.3, -1.1, -1.5], [2.0, 7.0, 1.8, 0.2])
  longer = t.absent(longer, (0, 1))
  t.close(t.per_prompt("pro", longer, **keywords), want)
  accuracy = t.run("pro", longer).metrics["rewards/accuracy"]
  np.testing.assert_array_equal(accuracy, [1.0])


@pytest.mark.parametrize("temperature", [True, False])
def test_gradient(temperature):
  t.check_gradient("pro", lists(), temperature=temperature)
