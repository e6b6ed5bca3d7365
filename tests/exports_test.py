"""Runs of other families than Llama, out and in again; adapters of runs."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests import tiny_models as tiny
from tests.models.attention_test import GEMMA
from tests.pretrained_test import CONFIG, KINDS, message, write_run
from xpo_jax import config, exports, pretrained, train
from xpo_jax.models.model import Model
from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.models.weights.export import save_folder
from xpo_jax.models.weights.tokenizer import byte_tokenizer

GPT2 = TransformerConfig(
  vocab_size=260,
  width=16,
  layers=2,
  heads=4,
  kv_heads=4,
  head_dim=4,
  mlp_width=24,
  max_length=96,
  family="gpt2",
  norm="layer",
  biases="all",
  activation="gelu_tanh",
  gated=False,
  learned_positions=True,
  rotary_dim=0,
)
GEMMA3 = dataclasses.replace(GEMMA, vocab_size=260, family="gemma3_text")
TOKENS = np.random.default_rng(0).integers(0, 260, (2, 9))


def test_an_adapter_of_a_run_names_its_base(tmp_path):
  model, settings = KINDS["lora on the last block"], config.base()
  settings.model.source = "some/base"
  policy = {"lora": tiny.lora(model, up=0.2)}
  run = write_run(tmp_path / "run", model, policy, settings)
  out = exports.export(run, tmp_path / "out", adapter=True)
  raw = json.loads((out / "adapter_config.json").read_text())
  assert raw["base_model_name_or_path"] == "some/base"
  assert raw["layers_to_transform"] == [1]
  assert (out / "tokenizer.json").is_file()
  assert not (out / "config.json").exists()


def test_what_has_no_adapter_is_one_line(tmp_path):
  whole = {"top": tiny.params(CONFIG)}
  run = write_run(tmp_path / "run", KINDS["all"], whole, config.base())
  ask = lambda **how: exports.export(run, tmp_path / "out", **how)
  assert "without LoRA" in message(lambda: ask(adapter=True))
  assert "shard_bytes=0" in message(lambda: ask(shard_bytes=0))
  assert not (tmp_path / "out").exists()


def test_more_tokens_than_learned_positions_are_one_line_not_nan():
  model = pretrained.Pretrained(Model(GPT2), {}, None)
  text = message(lambda: model.logits(np.zeros((1, 97), int)))
  assert "97 tokens" in text and "96 positions" in text


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("sizes", [GPT2, GEMMA3], ids=["gpt2", "gemma3"])
def test_a_trained_family_goes_out_and_comes_back(
  sizes, rank, tmp_path, monkeypatch
):
  monkeypatch.setenv("XPO_CACHE", str(tmp_path / "cache"))
  base, data = tmp_path / "base", tmp_path / "rows.jsonl"
  save_folder(base, sizes, tiny.params(sizes), byte_tokenizer())
  rows = [
    {"prompt": f"Count to {n}:", "chosen": f" one {n}", "rejected": " no"}
    for n in range(12)
  ]
  data.write_text("".join(json.dumps(row) + "\n" for row in rows))
  settings = config.base()
  settings.model.source, settings.lora.rank = str(base), rank
  settings.data.source = str(data)
  settings.data.max_prompt_length = settings.data.max_completion_length = 24
  settings.batch.prompts, settings.batch.row_length = 8, 64
  settings.train.steps, settings.train.epochs = 3, 0.0
  settings.optimizer.learning_rate = 0.01
  settings.mesh.data, settings.mesh.fsdp, settings.mesh.tensor = 1, 2, 2
  settings.method = config.method("dpo")
  run = tmp_path / "run"
  train.run(settings, run, devices=jax.devices()[:4])
  found = pretrained.load_pretrained(run)
  again = pretrained.load_pretrained(
    exports.export(run, tmp_path / "out", shard_bytes=20_000)
  )
  assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
  assert again.model.config == sizes
  jax.tree.map(np.testing.assert_array_equal, again.params, found.params)
  np.testing.assert_array_equal(again.logits(TOKENS), found.logits(TOKENS))
  before = pretrained.load_pretrained(base).logits(TOKENS)
  assert np.abs(before - found.logits(TOKENS)).max() > 1e-3
