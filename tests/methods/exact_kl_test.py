"""KL rewards over the whole vocabulary instead of an estimate."""

import numpy as np
import pytest

from tests.methods import groups
from tests.methods import tokens as t
from xpo_jax.errors import XpoError
from xpo_jax.methods import registry
from xpo_jax.types import Feedback

COEF = {"ppo": "kl_coef", "rloo": "beta", "reinforce_pp": "kl_coef"}


def rollout(**fields):
  zero = np.zeros((1, 2, 3))
  noise = np.random.default_rng(0)
  return t.from_arrays(
    Feedback.SCORE,
    [[1.0, -0.5]],
    **{
      "policy_logps": zero,
      "reference_logps": zero - 1,
      "sampler_logps": zero - 1 + noise.normal(size=zero.shape),
      "old_values": noise.normal(size=zero.shape),
    }
    | fields,
  )


@pytest.mark.parametrize("kind", ["reverse", "forward", "js"])
@pytest.mark.parametrize("name", COEF)
def test_the_exact_kl_takes_the_place_of_the_estimate(name, kind):
  """With the estimate's own values as token_kl the advantages are the same."""
  x, coef = rollout(), {COEF[name]: 0.5}
  wanted = groups.prepared(name, x, **coef).advantages
  other = rollout(
    token_kl=x.sampler_logps - x.reference_logps,
    reference_logps=-np.arange(1.0, 7.0).reshape(1, 2, 3),
  )
  found = groups.prepared(name, other, kl_kind=kind, **coef).advantages
  t.close(found, wanted)
  assert not np.allclose(
    groups.prepared(name, other, **coef).advantages, wanted, atol=1e-3
  )


@pytest.mark.parametrize("name", COEF)
def test_prepare_says_what_it_needs(name):
  method, coef = registry.get(name), COEF[name]
  js = {"kl_kind": "js"}
  assert method.prepare_needs(js) == {"token_kl:js"}
  assert not method.prepare_needs({"kl_kind": "k3"})
  assert not method.prepare_needs({**js, coef: 0.0})
  with pytest.raises(XpoError, match="prepare needs token_kl:js"):
    groups.prepared(name, rollout(), **{coef: 0.5}, **js)


def test_other_methods_need_nothing_more():
  for name in registry.names():
    method = registry.get(name)
    assert not method.prepare_needs({}), name
