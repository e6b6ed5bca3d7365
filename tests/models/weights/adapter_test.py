"""LoRA out: merged weights, and factors in PEFT's layout."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests import tiny_models
from tests.models.weights import tiny_families as tiny
from xpo_jax.errors import Exit, XpoError
from xpo_jax.models import model as lm
from xpo_jax.models.model import Model, Weights
from xpo_jax.models.weights import adapter, export, safetensors_folder

RANK, SCALE = 2, 1.5
TARGETS = {
  "llama": "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj",
  "gpt2": "c_attn c_fc c_proj c_proj",
  "gpt_neox": "dense dense_4h_to_h dense_h_to_4h query_key_value",
}


def made(root, case, trunk):
  """(base folder, model, weights with LoRA factors of both kinds)."""
  golden = tiny.golden()["cases"][case]
  folder = tiny.write(root / "base", case, golden["config"], golden["shapes"])
  config, params, _ = safetensors_folder.load_folder(folder)
  model = Model(config, trunk, (RANK, SCALE))
  lora = tiny_models.lora(model, up=0.3)
  return folder, model, Weights(*lm.split(params, trunk), lora)


@pytest.mark.parametrize("trunk", [0, 1])
@pytest.mark.parametrize("case", list(TARGETS))
def test_an_adapter_changes_the_base_into_the_merged_export(
  case, trunk, tmp_path
):
  folder, model, weights = made(tmp_path, case, trunk)
  merged = lm.join(weights.trunk, lm.merge_lora(model, weights))
  export.save_folder(tmp_path / "merged", model.config, merged, None)
  adapter.save_adapter(tmp_path / "lora", model, weights.lora, "org/m", None)
  raw = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
  found = load_file(tmp_path / "lora" / "adapter_model.safetensors")
  base = load_file(folder / "model.safetensors")
  wanted = load_file(tmp_path / "merged" / "model.safetensors")
  modules = sorted(t.split(".")[-1] for t in raw["target_modules"])
  assert modules == TARGETS[case].split()
  assert raw["peft_type"] == "LORA"
  assert raw["base_model_name_or_path"] == "org/m"
  assert raw["lora_alpha"] / raw["r"] == SCALE and raw["r"] == RANK
  changed = set()
  for name in base:
    prefix = "base_model.model." + name.removesuffix(".weight")
    change = 0.0
    if f"{prefix}.lora_A.weight" in found:
      a, b = (found.pop(f"{prefix}.lora_{x}.weight") for x in "AB")
      module = next(t for t in raw["target_modules"] if prefix.endswith(t))
      rank = raw["rank_pattern"].get(module, raw["r"])
      alpha = raw["alpha_pattern"].get(module, raw["lora_alpha"])
      assert a.shape[0] == b.shape[1] == rank
      change = alpha / rank * (b @ a)
      change = change.T if raw["fan_in_fan_out"] else change
      changed.add(name)
      assert np.abs(change).max() > 0.01
    np.testing.assert_allclose(wanted[name], base[name] + change, atol=1e-5)
  assert not found, "every factor belongs to a tensor of the base"
  assert len(changed) == len(TARGETS[case].split()) * (3 - trunk)
  assert raw["fan_in_fan_out"] is (case == "gpt2")


def test_merged_logits_are_those_with_the_factors_beside(tmp_path):
  _, model, weights = made(tmp_path, "gpt2", 0)
  tokens = jnp.asarray([tiny.PROMPT])
  at = jnp.arange(tokens.shape[1])[None]
  places = lm.Places(at, at * 0 + 1, at * 0)

  @jax.jit
  def logits(weights):
    return lm.logits(model, weights, lm.hidden(model, weights, tokens, places))

  merged = Weights({}, lm.merge_lora(model, weights))
  tiny_models.assert_near(logits(merged), logits(weights), 1e-5)
  base = logits(Weights({}, weights.top))
  assert np.abs(base - logits(merged)).max() > 0.1


def test_a_model_without_factors_has_no_adapter(tmp_path):
  with pytest.raises(XpoError, match="no LoRA factors") as e:
    adapter.save_adapter(
      tmp_path / "x", Model(tiny_models.CONFIG), {"blocks": {}}, "", None
    )
  assert e.value.code == Exit.USAGE
