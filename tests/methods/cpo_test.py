"""CPO: a contrast of sums without reference, and the chosen NLL."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods import inputs
from tests.methods.pairs import (
  A_W,
  S_L,
  S_W,
  check_slopes,
  close,
  golden,
  losses,
  softplus,
)
from xpo_jax.methods import registry

CPO = registry.get("cpo")


def test_golden():
  close(losses("cpo"), [3.5543552445, 3.374462002])
  close(losses("cpo", nll_norm="sum"), [12.5543552445, 21.311962002])


def test_formula():
  contrast = softplus(-0.4 * (S_W - S_L))
  close(losses("cpo", beta=0.4, nll_coef=0.3), contrast - 0.3 * A_W)
  got = losses("cpo", beta=0.4, nll_coef=0.3, nll_norm="sum")
  close(got, contrast - 0.3 * S_W)


def test_without_nll_it_is_dpo_with_an_even_reference():
  x = golden("cpo")
  # A uniform policy as the reference, at the same length: R_w = R_l.
  even = inputs.from_sums(
    np.stack([S_W, S_L], -1),
    reference=[[-7.0, -7.0]] * 2,
    lengths=[[4, 4]] * 2,
    kind=x.feedback_kind,
    feedback=x.feedback,
  )
  close(losses("cpo", nll_coef=0.0), losses("dpo", even), 1e-14)
  close(
    losses("cpo", nll_coef=0.0), losses("dpo", x, reference_free=True), 1e-15
  )


def test_batch_token_mean_has_its_own_denominator():
  """Two denominators: 2 pairs and 4 + 8 chosen tokens."""
  keywords = dict(nll_coef=0.3, nll_norm="batch_token_mean")
  out = CPO.loss(golden("cpo"), **keywords)
  contrast = softplus(-0.1 * (S_W - S_L))
  close(out.loss, contrast)
  close(out.terms["nll"][0], [0.3 * 12.0, 0.3 * 20.5])
  close(out.terms["nll"][1], [4.0, 8.0])
  close(inputs.total(out), contrast.mean() + 0.3 * 32.5 / 12)
  x = golden("cpo").replace(weight=jnp.array([0.0, 2.0]))
  out = CPO.loss(x, **keywords)
  close(inputs.total(out), 2 * contrast[1] + 2 * 0.3 * 20.5 / 8)


@pytest.mark.parametrize("nll_norm", ["seq_mean", "sum", "batch_token_mean"])
def test_gradients(nll_norm):
  check_slopes("cpo", golden("cpo"), beta=0.5, nll_norm=nll_norm)


def test_rewards():
  got = CPO.loss(golden("cpo"), beta=0.5).metrics
  close(got["rewards/chosen"], 0.5 * S_W)
  close(got["rewards/rejected"], 0.5 * S_L)
