"""RRHF: a hinge on mean log-probs, and the best completion's NLL."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods import tokens as t
from xpo_jax.types import Feedback

# Mean log-probs p = [-.8, -.5, -.9] of methods.md 16.2 over 2, 1 and 3 tokens.
LOGPS = [[[-0.6, -1.0, 8.0], [-0.5, 8.0, 8.0], [-0.7, -0.8, -1.2]]]
MASK = [[[1, 1, 0], [1, 0, 0], [1, 1, 1]]]


def lists(r=(1.0, 0.2, 0.8)):
  return t.from_arrays(Feedback.SCORE, [list(r)], mask=MASK, policy_logps=LOGPS)


def test_golden():
  """r_2 < r_1 by .3, r_2 < r_3 by .4, r_3 < r_1 is in order."""
  t.close(t.per_prompt("rrhf", lists(), nll_coef=0.0), [0.3 + 0.4])
  t.close(t.per_prompt("rrhf", lists()), [0.7 + 1.6])
  got = t.per_prompt("rrhf", lists(), rank_coef=2.0, nll_coef=0.5)
  t.close(got, [2 * 0.7 + 0.5 * 1.6])
  t.close(t.per_prompt("rrhf", lists(), nll_norm="seq_mean"), [0.7 + 1.6 / 2])


def test_the_right_order_leaves_the_likelihood():
  x = lists((0.5, 0.9, 0.1))
  t.close(t.per_prompt("rrhf", x), [0.5])
  assert t.run("rrhf", x).metrics["rewards/violated"][0] == 0


def test_equal_rewards_make_no_pair_and_the_first_is_best():
  t.close(t.per_prompt("rrhf", lists((0.5, 0.5, 0.5))), [1.6])


def test_one_completion_is_supervised_training():
  x = t.completions(lists(), 2)
  got = t.per_prompt("rrhf", x)
  demonstration = x.replace(feedback_kind=Feedback.DEMONSTRATION)
  t.close(got, t.run("sft", demonstration).loss)
  t.close(got, [2.7])


def batch():
  """Two lists; the best have 2 and 3 tokens, an absent one counts nowhere."""
  both = lists()
  double = lambda v: jnp.concatenate([v, v])
  x = both.replace(
    policy_logps=double(both.policy_logps),
    completion_mask=double(both.completion_mask),
    present=double(both.present),
    ended=double(both.ended),
    feedback=jnp.asarray([[1.0, 0.2, 0.8], [0.1, 9.0, 0.8]]),
    weight=jnp.ones(2),
  )
  return t.absent(x, (1, 1))


def test_a_mean_over_the_best_tokens_of_the_batch():
  out = t.run("rrhf", batch(), nll_norm="batch_token_mean", nll_coef=0.5)
  t.close(out.loss, [0.7, 0.1])
  np.testing.assert_array_equal(out.weight, [1, 1])
  t.close(out.terms["nll"][0], [0.5 * 1.6, 0.5 * 2.7])
  np.testing.assert_array_equal(out.terms["nll"][1], [2, 3])
  got = t.value("rrhf", batch(), nll_norm="batch_token_mean", nll_coef=0.5)
  t.close(got, (0.7 + 0.1) / 2 + 0.5 * (1.6 + 2.7) / 5)


def test_gradient_of_a_violated_pair():
  """+1 / N on the tokens of the worse, -1 / N on those of the better."""
  got = t.gradient("rrhf", lists(), nll_coef=0.0)
  want = [[[-1 / 2, -1 / 2, 0], [2.0, 0, 0], [-1 / 3, -1 / 3, -1 / 3]]]
  t.close(got, want)


@pytest.mark.parametrize("norm", ["sum", "seq_mean", "batch_token_mean"])
def test_gradient(norm):
  t.check_gradient("rrhf", batch(), nll_norm=norm)
