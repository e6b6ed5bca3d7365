"""DAPO: GRPO's advantages and clip, one mean over all tokens."""

import numpy as np

from tests.methods import groups as g
from tests.methods import tokens as t


def test_advantages_are_those_of_grpo():
  t.close(g.advantages("dapo"), g.advantages("grpo"))
  golden = [1.30530975, -0.78318585, -0.78318585, 0.26106195]
  t.close(g.advantages("dapo"), golden, atol=1e-8)


def test_one_mean_over_the_tokens_of_the_batch():
  tokens = g.clipped(g.LOGRATIO, 0.2, 0.28)
  out = t.run("dapo", g.step())
  np.testing.assert_array_equal(out.weight, [4, 5])
  t.close(t.value("dapo", g.step()), np.sum(tokens[g.MASK]) / 9)
  t.close(t.value("dapo", g.reductions()), 2.5)


def test_equal_clips_are_the_plain_one():
  tokens = g.clipped(g.LOGRATIO, 0.2, 0.2)
  got = t.value("dapo", g.step(), clip_high=0.2)
  t.close(got, np.sum(tokens[g.MASK]) / 9)


def test_kl():
  tokens = g.clipped(g.LOGRATIO, 0.2, 0.28) + 0.3 * g.k3()
  got = t.value("dapo", g.step(reference=True), beta=0.3)
  t.close(got, np.sum(tokens[g.MASK]) / 9)


def test_gradient():
  t.check_gradient("dapo", g.step(reference=True), beta=0.3)
