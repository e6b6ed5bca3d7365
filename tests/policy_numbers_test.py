"""Distances, and sharing of frozen blocks."""

import math

import numpy as np
import pytest

from xpo_jax import policy_numbers, pretrained
from xpo_jax.models.model import Model
from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.pretrained import Pretrained

SIZES = TransformerConfig(
  vocab_size=20,
  width=8,
  layers=3,
  heads=2,
  kv_heads=1,
  head_dim=4,
  mlp_width=8,
)


def test_divergence_is_summed_over_tokens():
  policy = [np.array([-1.0, -2.0]), np.array([-0.5])]
  reference = [np.array([-1.5, -1.0]), np.array([-0.5])]
  k1, k3 = policy_numbers.divergence(policy, reference)
  np.testing.assert_allclose(k1, [0.5 - 1.0, 0.0])
  expected = (math.exp(-0.5) - 1 + 0.5) + (math.exp(1.0) - 1 - 1.0)
  np.testing.assert_allclose(k3, [expected, 0.0], atol=1e-12)


def test_divergence_is_finite_for_impossible_tokens():
  _, k3 = policy_numbers.divergence([np.array([-1e4])], [np.array([0.0])])
  np.testing.assert_allclose(k3, [math.exp(20.0) - 1 - 1e4])


@pytest.mark.parametrize("changed,blocks", [("top", 2), ("trunk", 0)])
def test_models_share_the_trunk_only_if_it_is_equal(changed, blocks):
  params = pretrained.random_params(Model(SIZES), 0)
  other = pretrained.random_params(Model(SIZES), 0)
  layer = {"top": 2, "trunk": 0}[changed]
  gate = np.array(other["blocks"]["mlp"]["gate"])
  gate[layer] += 1
  other["blocks"]["mlp"]["gate"] = gate
  models = {
    name: Pretrained(Model(SIZES), tree, None)
    for name, tree in (("a", params), ("b", other))
  }
  splits = policy_numbers.split_shared(models, 2)
  assert {s.model.trunk_blocks for s in splits.values()} == {blocks}
