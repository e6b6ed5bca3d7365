"""Every pair method reports its own rewards under the same names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods.pairs import (
  A_L,
  A_W,
  R_L,
  R_W,
  S_L,
  S_W,
  U_L,
  U_W,
  close,
  golden,
)
from xpo_jax.methods import registry

SCALED = (  # beta u, of one keyword
  "dpo dpop beta_dpo gpo r_dpo robust_dpo exo nca infonca bco_pair aot "
  "aot_unpaired apo_zero apo_down discopop wpo xpo"
).split()
CASES = [(name, dict(beta=0.4), 0.4 * U_W, 0.4 * U_L) for name in SCALED] + [
  ("ipo", dict(tau=0.4), 0.4 * U_W, 0.4 * U_L),
  ("rso", dict(gamma=0.4), 0.4 * U_W, 0.4 * U_L),
  ("rso", dict(gamma=0.4, loss="hinge"), 0.4 * S_W, 0.4 * S_L),
  ("f_dpo", dict(beta=0.4), 0.4 * U_W, 0.4 * U_L),
  ("tdpo1", dict(beta=0.4), 0.4 * (U_W + 2.0), 0.4 * (U_L + 3.0)),
  ("tdpo2", dict(beta=0.4), 0.4 * (U_W + 2.0), 0.4 * (U_L + 3.0)),
  (
    "h_dpo",
    dict(beta=0.4, alpha=0.5),
    0.4 * (0.5 * S_W - R_W),
    0.4 * (0.5 * S_L - R_L),
  ),
  ("slic", {}, S_W, S_L),
  ("slic", dict(length_norm=True), A_W, A_L),
  ("cpo", dict(beta=0.4), 0.4 * S_W, 0.4 * S_L),
  ("simpo", dict(beta=0.4), 0.4 * A_W, 0.4 * A_L),
  ("orpo", dict(odds_coef=0.4), 0.4 * A_W, 0.4 * A_L),
  ("pairwise_cringe", {}, S_W, S_L),
]


def filled(name, keywords):
  """The golden batch with whatever else the method needs."""
  x = golden(name, **keywords)
  mask = np.asarray(x.completion_mask)
  share = mask / mask.sum(-1, keepdims=True)
  kl = np.array([2.0, 3.0])[:, None] * share  # 2 of the chosen, 3 of the other
  start = registry.get(name).init_state
  return x.replace(
    token_kl=jnp.asarray(kl),
    log_collision=jnp.asarray(-share),
    contrast_logps=jnp.asarray(-share),
    noise=jax.random.key(0),
    state=None if start is None else start(keywords),
  )


@pytest.mark.parametrize(
  "name, keywords, chosen, rejected", CASES, ids=lambda v: str(v)[:20]
)
def test_rewards(name, keywords, chosen, rejected):
  out = registry.get(name).loss(filled(name, keywords), **keywords)
  got = out.metrics
  close(got["rewards/chosen"], chosen)
  close(got["rewards/rejected"], rejected)
  close(got["rewards/margin"], chosen - rejected)
  close(got["rewards/accuracy"], np.where(chosen > rejected, 1.0, 0.0))
  close(got["logps/chosen"], S_W)
  close(got["logps/rejected"], S_L)
