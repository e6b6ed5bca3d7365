"""Nash-EMA: the loss of Nash-MD; only the opponent's sampler differs."""

import numpy as np

from tests.methods import tokens as t
from xpo_jax.types import Feedback


def samples():
  u = np.array([[[0.1, -0.2, 0.05], [0.4, 0.3, 9.0]]])
  reference = np.full(u.shape, -1.5)
  return t.from_arrays(
    Feedback.PROBABILITY,
    [[0.8, 0.3]],
    mask=[[[1, 1, 1], [1, 1, 0]]],
    policy_logps=u + reference,
    reference_logps=reference,
  )


def test_formula():
  x = samples()
  advantages = np.array(
    [
      [0.3 + 0.2 * 0.05, 0.3 + 0.2 * 0.15, 0.3 - 0.2 * 0.05],
      [-0.2 - 0.2 * 0.7, -0.2 - 0.2 * 0.3, 0.0],
    ]
  )
  logps = np.where(x.completion_mask, x.policy_logps, 0.0)[0]
  t.close(t.value("nash_ema", x, tau=0.2), -np.sum(advantages * logps) / 2)
  t.close(t.gradient("nash_ema", x, tau=0.2)[0], -advantages / 2)


def test_is_the_loss_of_nash_md():
  x = samples()
  t.close(t.value("nash_ema", x), t.value("nash_md", x))
  t.close(t.gradient("nash_ema", x), t.gradient("nash_md", x))
