"""REINFORCE++ with a group baseline: the KL is a k2 loss."""

import numpy as np

from tests.methods import groups as g
from tests.methods import tokens as t

NAME = "reinforce_pp_baseline"


def test_advantages_are_whitened_over_tokens():
  """Group means .5 leave +-.5 on 3, 1, 2 and 3 tokens."""
  x = g.prepared(NAME, g.step(reference=True))
  tokens = np.array([0.5] * 3 + [-0.5] + [-0.5] * 2 + [0.5] * 3)
  want = (tokens - tokens.mean()) / tokens.std()
  t.close(np.asarray(x.advantages)[g.MASK], want)
  assert not np.any(np.asarray(x.advantages)[~g.MASK])


def test_groups_are_centred_before_the_batch():
  x = g.step(reference=True)
  moved = x.replace(feedback=x.feedback + np.array([[10.0], [-3.0]]))
  got, want = g.prepared(NAME, moved), g.prepared(NAME, x)
  t.close(got.advantages, want.advantages)


def test_equal_scores_are_silent():
  t.close(g.advantages(NAME, [0.25] * 4), np.zeros(4))


def test_loss_is_a_token_mean_with_k2():
  x = g.step(reference=True)
  tokens = g.clipped(g.LOGRATIO, 0.2, 0.2) + 0.3 * g.D**2 / 2
  out = t.run(NAME, x, kl_coef=0.3)
  np.testing.assert_array_equal(out.weight, [4, 5])
  t.close(t.value(NAME, x, kl_coef=0.3), np.sum(tokens[g.MASK]) / 9)
  t.check_gradient(NAME, x, kl_coef=0.3)


def test_without_kl_it_is_the_clipped_loss():
  tokens = g.clipped(g.LOGRATIO, 0.2, 0.28)
  got = t.value(NAME, g.step(), kl_coef=0.0, clip_high=0.28)
  t.close(got, np.sum(tokens[g.MASK]) / 9)
