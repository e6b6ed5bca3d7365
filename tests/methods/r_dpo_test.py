"""R-DPO: longer chosen completions count for less."""

import numpy as np

from tests.methods import inputs
from tests.methods.pairs import (
  N_L,
  N_W,
  H,
  check_slopes,
  close,
  golden,
  losses,
  sigma,
  slopes,
  softplus,
)
from xpo_jax.methods import registry
from xpo_jax.types import Feedback


def test_golden():
  close(losses("r_dpo", alpha=0.01), [0.6071917248, 0.7549461016])


def test_formula():
  want = softplus(-(0.3 * H + 0.2 * (N_W - N_L)))
  close(losses("r_dpo", beta=0.3, alpha=0.2), want)


def test_dpo_without_a_price_or_a_difference():
  close(losses("r_dpo", alpha=0.0), losses("dpo"), 1e-15)
  x = inputs.from_sums(
    [[-3.0, -4.0]],
    reference=[[-3.5, -3.0]],
    lengths=[[5, 5]],
    kind=Feedback.ORDER,
    feedback=[[1.0, 0.0]],
  )
  close(losses("r_dpo", x, alpha=0.7), losses("dpo", x), 1e-15)


def test_a_longer_chosen_completion_has_less_to_learn():
  x = inputs.from_sums(
    [[-3.0, -4.0]] * 4,
    reference=[[-3.5, -3.0]] * 4,
    lengths=[[n, 5] for n in (2, 5, 8, 30)],
    kind=Feedback.ORDER,
    feedback=[[1.0, 0.0]] * 4,
  )
  assert np.all(np.diff(losses("r_dpo", x)) < 0)
  assert np.all(np.diff(slopes("r_dpo", x)[:, 0]) > 0)  # from below towards 0


def test_gradients():
  z = 0.1 * H + 0.05 * (N_W - N_L)
  got = slopes("r_dpo", golden("r_dpo"))
  close(got[:, 0], -0.1 * sigma(-z))
  close(got[:, 1], 0.1 * sigma(-z))
  check_slopes("r_dpo", golden("r_dpo"), beta=0.6, alpha=0.3)


def test_metrics():
  got = registry.get("r_dpo").loss(golden("r_dpo")).metrics
  close(got["length/chosen"], N_W)
  close(got["length/rejected"], N_L)
