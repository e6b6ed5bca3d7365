"""Distances, held-out accuracy and sharing of frozen blocks."""

import dataclasses
import json
import math
import types
from typing import NamedTuple

import numpy as np
import pytest

from xpo_jax import evaluation, held_out, pretrained
from xpo_jax.data.records import Group
from xpo_jax.models.model import Model
from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.models.weights.tokenizer import byte_tokenizer
from xpo_jax.pretrained import Pretrained
from xpo_jax.types import Feedback


class Samples(NamedTuple):
  """What is read of the sampler's answer."""

  tokens: np.ndarray
  mask: np.ndarray
  ended: np.ndarray


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
  k1, k3 = evaluation.divergence(policy, reference)
  np.testing.assert_allclose(k1, [0.5 - 1.0, 0.0])
  expected = (math.exp(-0.5) - 1 + 0.5) + (math.exp(1.0) - 1 - 1.0)
  np.testing.assert_allclose(k3, [expected, 0.0], atol=1e-12)


def test_divergence_is_finite_for_impossible_tokens():
  _, k3 = evaluation.divergence([np.array([-1e4])], [np.array([0.0])])
  np.testing.assert_allclose(k3, [math.exp(20.0) - 1 - 1e4])


def test_held_out_accuracy_counts_positive_margins(tmp_path):
  rows = [("a", 0.3), ("a", -0.1), ("b", 0.0), ("b", 2.0)]
  lines = [
    json.dumps({"id": f"{c}{i}", "cluster": c, "rewards/margin": m})
    for i, (c, m) in enumerate(rows)
  ]
  (tmp_path / held_out.FILE).write_text("\n".join(lines) + "\n")
  found = evaluation.held_out_accuracy(tmp_path)
  assert (found.mean, found.n, found.clusters) == (0.5, 4, 2)


def test_no_margins_no_accuracy(tmp_path):
  assert evaluation.held_out_accuracy(tmp_path) is None
  (tmp_path / held_out.FILE).write_text('{"id": "a", "cluster": ""}\n')
  assert evaluation.held_out_accuracy(tmp_path) is None


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
  splits = evaluation.split_shared(models, 2)
  assert {s.model.trunk_blocks for s in splits.values()} == {blocks}


@pytest.mark.parametrize("trained, text", [("plain", "Hi"), ("", "\nHi")])
def test_auto_is_each_policy_s_own_template(tmp_path, trained, text):
  """Without a word of its training, a policy with a chat template chats."""
  asked = []

  class Policy:
    tokenizer = dataclasses.replace(
      byte_tokenizer(), trained_with=trained, eos_id=258
    )

    def sample(self, ids, *_, end_id, **__):
      asked.append((self.tokenizer.decode(ids[0]), end_id))
      return Samples(
        tokens=np.zeros((1, 1, 1), int),
        mask=np.ones((1, 1, 1), bool),
        ended=np.ones((1, 1), bool),
      ), None

  settings = types.SimpleNamespace(
    template="auto",
    prompts_at_once=1,
    max_new_tokens=1,
    temperature=1.0,
    top_p=1.0,
    seed=0,
    completions=1,
  )
  group = Group("f:1", "Hi", (), (), Feedback.DEMONSTRATION)
  evaluation.sample_policy("p", Policy(), [group], settings, tmp_path)
  ((prompt, end),) = asked
  assert prompt.removeprefix("user").removesuffix("\nassistant\n") == text
  assert end == (258 if trained == "plain" else 256)
