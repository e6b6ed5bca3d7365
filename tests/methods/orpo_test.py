"""ORPO: SFT and the odds ratio of average probabilities."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods import inputs
from tests.methods.pairs import (
  A_L,
  A_W,
  N_L,
  N_W,
  S_W,
  check_slopes,
  close,
  golden,
  losses,
  sigma,
  slopes,
  softplus,
  sums,
)
from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.methods.orpo import log_odds

ORPO = registry.get("orpo")


def odds(a):
  """log(p / (1 - p)), p = e^a."""
  return np.log(np.exp(a) / (1 - np.exp(a)))


def test_golden():
  close(odds(A_W) - odds(A_L), [-0.5345813028, 1.1414122245])
  got = ORPO.loss(golden("orpo"))
  close(got.metrics["log_odds/margin"], [-0.5345813028, 1.1414122245])
  close(got.loss, [3.0995742553, 2.5902152595])
  only_odds = losses("orpo", odds_coef=1.0) - losses("orpo", odds_coef=0.0)
  close(only_odds, [0.9957425529, 0.2771525948])


def test_formula():
  contrast = softplus(-(odds(A_W) - odds(A_L)))
  close(losses("orpo", odds_coef=0.7), -A_W + 0.7 * contrast)
  close(losses("orpo", odds_coef=0.7, nll_norm="sum"), -S_W + 0.7 * contrast)


def test_batch_token_mean_has_its_own_denominator():
  """Two denominators: 2 pairs and 4 + 8 chosen tokens."""
  out = ORPO.loss(golden("orpo"), odds_coef=0.7, nll_norm="batch_token_mean")
  contrast = 0.7 * softplus(-(odds(A_W) - odds(A_L)))
  close(out.loss, contrast)
  close(out.terms["nll"][0], [12.0, 20.5])
  close(out.terms["nll"][1], [4.0, 8.0])
  assert out.terms.keys() == {"nll"}
  close(inputs.total(out), contrast.mean() + (12.0 + 20.5) / (4 + 8))
  x = golden("orpo").replace(weight=jnp.array([0.5, 0.0]))
  out = ORPO.loss(x, odds_coef=0.7, nll_norm="batch_token_mean")
  close(inputs.total(out), 0.5 * contrast[0] + 0.5 * 12.0 / 4)


def test_equal_averages():
  x = sums(-8.0, -12.0)  # lengths 4 and 6
  close(losses("orpo", x, odds_coef=1.0), 2.0 + math.log(2), 1e-14)
  close(losses("orpo", x, odds_coef=0.0), 2.0, 1e-15)


def test_unlikely_completions_have_odds_like_probabilities():
  a = jnp.array([-30.0, -50.0])
  close(log_odds(a), a, 1e-12)
  x = sums(-120.0, -186.0)  # averages -30 and -31
  close(losses("orpo", x, odds_coef=1.0) - 30.0, softplus(-1.0), 1e-12)


def test_probability_one_is_clamped():
  x = sums([-1e-8, 0.0, -4.0], [-3.0, -3.0, -1e-8], lengths=(1, 1))
  got = slopes("orpo", x, odds_coef=1.0)
  close(got[:2, 0], -1.0, 1e-12)  # the NLL alone
  close(got[2, 1], 0.0, 1e-12)
  assert np.all(np.isfinite(losses("orpo", x)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_log1mexp(dtype):
  a = jnp.asarray([-1e-6, -50.0, -1.0], dtype)
  want = [
    -13.8155110580,
    -math.exp(-50.0),
    math.log(1 - math.exp(-1.0)),
  ]
  np.testing.assert_allclose(
    ops.log1mexp(a), want, rtol=1e-6 if dtype == jnp.float32 else 1e-11
  )


def test_gradients():
  got = slopes("orpo", golden("orpo"))  # methods.md 16.3
  close(got[:, 0], [-0.2665897288, -0.1282785817])
  close(got[:, 1], [0.0114489721, 0.0049704099])
  s = sigma(-(odds(A_W) - odds(A_L)))
  by_hand = -1 / N_W - 0.1 * s / (1 - np.exp(A_W)) / N_W
  close(got[:, 0], by_hand)
  close(got[:, 1], 0.1 * s / (1 - np.exp(A_L)) / N_L)
  for nll_norm in ("seq_mean", "sum", "batch_token_mean"):
    check_slopes("orpo", golden("orpo"), odds_coef=0.6, nll_norm=nll_norm)


def test_rewards():
  got = ORPO.loss(golden("orpo"), odds_coef=0.3).metrics
  close(got["rewards/chosen"], 0.3 * A_W)
  close(got["nll/chosen"], -A_W)
