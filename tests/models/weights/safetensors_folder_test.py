import dataclasses
import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.models.weights import tiny_forward, tiny_gguf, tiny_llama
from xpo_jax.errors import Exit, XpoError
from xpo_jax.models.weights import export, gguf_file, safetensors_folder
from xpo_jax.models.weights.safetensors_files import INDEX
from xpo_jax.models.weights.tokenizer import byte_tokenizer

GOLDEN = Path(__file__).parents[2] / "golden" / "tiny_llama_logits.json"
CASES = pytest.mark.parametrize("case", list(tiny_llama.CASES))
EMBEDDING = "model.embed_tokens.weight"


def assert_same_tree(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@CASES
def test_logits_are_those_of_an_independent_llama(tmp_path, case):
  golden = json.loads(GOLDEN.read_text())
  folder = tiny_llama.write(tmp_path, case)
  config, params, tokenizer = safetensors_folder.load_folder(folder)
  ours = tiny_forward.logits(config, params, tiny_llama.TOKENS)
  reference = np.asarray(golden["logits"][case])
  assert np.abs(reference).max() > 10, "weights are drawn large"
  np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=1e-4)
  assert tokenizer is None
  assert ("head" in params) is (case == "untied")


def test_tree_has_the_layout_of_the_model(tmp_path):
  folder = tiny_llama.write(tmp_path, "untied")
  config, params, _ = safetensors_folder.load_folder(folder)
  raw = tiny_llama.tensors("untied")
  attention = params["blocks"]["attention"]
  assert attention["query"].shape == (3, 24, 4, 8)
  assert attention["out"].shape == (3, 4, 8, 24)
  q = raw["model.layers.2.self_attn.q_proj.weight"]
  # layer 2, input 5, head 3, place 6 of the head
  assert attention["query"][2, 5, 3, 6] == q[3 * 8 + 6, 5]
  o = raw["model.layers.1.self_attn.o_proj.weight"]
  assert attention["out"][1, 3, 6, 5] == o[5, 3 * 8 + 6]
  down = raw["model.layers.0.mlp.down_proj.weight"]
  assert params["blocks"]["mlp"]["down"][0, 39, 5] == down[5, 39]
  assert params["head"]["kernel"][5, 49] == raw["lm_head.weight"][49, 5]
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(params))


@CASES
def test_newer_config_layout_reads_alike(tmp_path, case):
  read = safetensors_folder.load_folder
  old, _, _ = read(tiny_llama.write(tmp_path / "a", case))
  theta = tiny_llama.hf_config(case)["rope_theta"]
  rope = {"rope_theta": theta, "rope_type": "default"}
  folder = tiny_llama.write(
    tmp_path / "b", case, rope_theta=None, rope_parameters=rope
  )
  assert read(folder)[0] == old
  assert old.rope_theta == theta and old.norm_eps == 1e-2


@CASES
@pytest.mark.parametrize("shard_bytes", [10**9, 9000])
def test_import_export_import_is_bitwise_equal(tmp_path, case, shard_bytes):
  first = tiny_llama.write(tmp_path / "a", case)
  config, params, _ = safetensors_folder.load_folder(first)
  out = tmp_path / "b"
  tokenizer = gguf_file.load_gguf(
    tiny_gguf.write(tmp_path / "m.gguf", case, add_bos=True)
  )[2]
  export.save_folder(out, config, params, tokenizer, shard_bytes=shard_bytes)
  config_b, params_b, tokenizer_b = safetensors_folder.load_folder(out)
  assert config_b == config
  assert_same_tree(params_b, params)
  assert tokenizer_b.fingerprint() == tokenizer.fingerprint()
  raw = json.loads((out / "config.json").read_text())
  assert (raw["eos_token_id"], raw["bos_token_id"]) == (47, 48)
  assert "pad_token_id" not in raw
  files = sorted(p.name for p in out.glob("*.safetensors"))
  sharded = shard_bytes == 9000
  assert (len(files) > 2) is sharded
  assert (out / INDEX).is_file() is sharded
  exported = {k: v for f in files for k, v in load_file(out / f).items()}
  assert exported.keys() == tiny_llama.tensors(case).keys()
  for name, value in tiny_llama.tensors(case).items():
    np.testing.assert_array_equal(exported[name], value)
  assert not list(tmp_path.glob(".part-*"))


def test_bfloat16_export_rounds_once(tmp_path):
  config, params, _ = safetensors_folder.load_folder(
    tiny_llama.write(tmp_path / "a", "tied")
  )
  save = export.save_folder
  save(tmp_path / "b", config, params, None, "bfloat16")
  _, rounded, tokenizer = safetensors_folder.load_folder(tmp_path / "b")
  by_hand = jax.tree.map(
    lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32), params
  )
  assert_same_tree(rounded, by_hand)
  assert tokenizer is None
  save(tmp_path / "c", config, rounded, None, "bfloat16")
  assert_same_tree(safetensors_folder.load_folder(tmp_path / "c")[1], rounded)


def tied(tmp_path):
  return tiny_llama.write(tmp_path / "m", "tied")


def rewrite(folder, change):
  """Applies `change` to {name: array} of a tied folder and writes it."""
  tensors = tiny_llama.tensors("tied")
  change(tensors)
  save_file(tensors, folder / "model.safetensors")
  return folder


def load_error(folder) -> str:
  with pytest.raises(XpoError) as e:
    safetensors_folder.load_folder(folder)
  assert e.value.code == Exit.CHECKPOINT
  assert "\n" not in str(e.value)
  assert str(folder) in str(e.value)
  return str(e.value)


def test_tied_head_beside_or_instead_of_the_embedding(tmp_path):
  plain = safetensors_folder.load_folder(tied(tmp_path))[1]
  table = tiny_llama.tensors("tied")[EMBEDDING]

  def beside(t):
    t["lm_head.weight"] = table.copy()

  def instead(t):
    t["lm_head.weight"] = t.pop(EMBEDDING)

  def other(t):
    t["lm_head.weight"] = table + 1

  for change in (beside, instead):
    folder = rewrite(tied(tmp_path), change)
    assert_same_tree(safetensors_folder.load_folder(folder)[1], plain)
  assert "differs from the embedding" in load_error(
    rewrite(tied(tmp_path), other)
  )


def test_untied_without_head_suggests_the_flag(tmp_path):
  folder = tiny_llama.write(tmp_path / "m", "tied", tie_word_embeddings=False)
  assert "set tie_word_embeddings to true" in load_error(folder)


def test_recomputed_buffers_are_ignored(tmp_path):
  buffer = {
    "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)
  }
  folder = rewrite(tied(tmp_path), lambda t: t.update(buffer))
  assert safetensors_folder.load_folder(folder)[0].layers == 3


def _nan(t):
  t["model.norm.weight"][3] = np.nan


TENSOR_FAULTS = {
  "misses tensor 'model.norm.weight'": lambda t: t.pop("model.norm.weight"),
  "has unknown tensor 'score.weight'": lambda t: t.update(
    {"score.weight": np.ones((1, 24), np.float32)}
  ),
  r"has shape (50, 23), config.json says (50, 24)": lambda t: t.update(
    {EMBEDDING: t[EMBEDDING][:, 1:].copy()}
  ),
  "is F64, want one of F32, F16, BF16": lambda t: t.update(
    {EMBEDDING: t[EMBEDDING].astype(np.float64)}
  ),
  "'model.norm.weight' holds NaN or Inf": _nan,
}


@pytest.mark.parametrize("message", list(TENSOR_FAULTS))
def test_wrong_tensors(tmp_path, message):
  assert message in load_error(rewrite(tied(tmp_path), TENSOR_FAULTS[message]))


CONFIG_FAULTS = {
  "model_type='mixtral'": dict(model_type="mixtral"),
  "model_type=None": dict(model_type=None),
  "attention_bias=True": dict(attention_bias=True),
  "hidden_act='gelu'": dict(hidden_act="gelu"),
  "tie_word_embeddings='false'": dict(tie_word_embeddings="false"),
  "quantization_config=": dict(quantization_config={"bits": 4}),
  "only rope_type default,": dict(
    rope_scaling={"type": "dynamic", "factor": 2.0}
  ),
  "low_freq_factor=None": dict(rope_parameters={"rope_type": "llama3"}),
  "'mrope_section' is not supported": dict(
    rope_scaling={"type": "default", "mrope_section": [16, 24]}
  ),
  "disagree; remove one": dict(
    rope_scaling={"type": "linear", "factor": 2.0},
    rope_parameters={"rope_type": "linear", "factor": 4.0},
  ),
  "rope_scaling=7, want": dict(rope_scaling=7),
  "factor=True, want": dict(rope_scaling={"type": "linear", "factor": True}),
  "partial_rotary_factor=0.5": dict(partial_rotary_factor=0.5),
  "num_local_experts=8": dict(num_local_experts=8),
  "mlp_bias=1 is": dict(mlp_bias=1),
  "rope_theta=-1": dict(rope_theta=-1),
  "rope_theta='1e4'": dict(rope_theta="1e4"),
  "hidden_size=-24": dict(hidden_size=-24),
  "hidden_size=24.0": dict(hidden_size=24.0),
  "vocab_size=True": dict(vocab_size=True),
  "num_hidden_layers=1000000": dict(num_hidden_layers=1_000_000),
  "num_key_value_heads=3": dict(num_key_value_heads=3),
  "config.json says (40, 1000)": dict(hidden_size=1000),
}


@pytest.mark.parametrize("message", list(CONFIG_FAULTS))
def test_wrong_config(tmp_path, message):
  folder = tiny_llama.write(tmp_path / "m", "tied", **CONFIG_FAULTS[message])
  if "says" in message:  # before anything of that size is allocated
    assert "has shape (50, 24), config.json says (50, 1000)" in load_error(
      folder
    )
  else:
    assert message in load_error(folder)


def test_truncated_file(tmp_path):
  path = tied(tmp_path) / "model.safetensors"
  path.write_bytes(path.read_bytes()[:-4])
  assert "copy the file again" in load_error(path.parent)


def sharded(tmp_path):
  config, params, _ = safetensors_folder.load_folder(tied(tmp_path))
  out = tmp_path / "s"
  export.save_folder(out, config, params, None, shard_bytes=20_000)
  return out, json.loads((out / INDEX).read_text())


@pytest.mark.parametrize("shard", ["../m/model.safetensors", "x/y.safetensors"])
def test_index_entry_outside_the_folder(tmp_path, shard):
  out, index = sharded(tmp_path)
  index["weight_map"][EMBEDDING] = shard
  (out / INDEX).write_text(json.dumps(index))
  assert "not a plain *.safetensors file name" in load_error(out)


def test_index_names_a_missing_shard(tmp_path):
  out, index = sharded(tmp_path)
  gone = index["weight_map"][EMBEDDING]
  (out / gone).unlink()
  message = load_error(out)
  assert f"shard {gone!r} is missing" in message
  assert INDEX in message


def test_index_and_shards_disagree(tmp_path):
  out, index = sharded(tmp_path)
  right = index["weight_map"][EMBEDDING]
  wrong = next(s for s in index["weight_map"].values() if s != right)
  index["weight_map"][EMBEDDING] = wrong
  (out / INDEX).write_text(json.dumps(index))
  assert f"is in {right}, not in {wrong}" in load_error(out)
  index["weight_map"] |= {EMBEDDING: right, "ghost": right}
  (out / INDEX).write_text(json.dumps(index))
  assert f"'ghost' is not in {right}" in load_error(out)


def test_same_tensor_in_two_files_without_index(tmp_path):
  out, _ = sharded(tmp_path)
  (out / INDEX).unlink()
  assert safetensors_folder.load_folder(out)[0].layers == 3
  save_file({EMBEDDING: np.ones((50, 24), np.float32)}, out / "z.safetensors")
  assert "is also in" in load_error(out)


def test_folders_that_are_no_model(tmp_path):
  assert "no config.json" in load_error(tmp_path)
  (tmp_path / "adapter_config.json").write_text("{}")
  assert "LoRA adapter" in load_error(tmp_path)
  assert "no such folder" in load_error(tmp_path / "nowhere")
  folder = tied(tmp_path)
  (folder / "model.safetensors").unlink()
  assert "no *.safetensors file" in load_error(folder)
  (folder / "config.json").write_text('{"model_type": "llama"')
  assert "config.json: not valid JSON" in load_error(folder)


def test_save_refuses_what_it_cannot_write(tmp_path):
  config, params, _ = safetensors_folder.load_folder(tied(tmp_path))
  save = export.save_folder
  with pytest.raises(XpoError, match="not empty") as e:
    save(tmp_path / "m", config, params, None)
  assert e.value.code == Exit.STORAGE
  with pytest.raises(XpoError, match="ids up to 259, the model only 50"):
    save(tmp_path / "n", config, params, byte_tokenizer())
  with pytest.raises(XpoError, match="dtype='int8'"):
    save(tmp_path / "n", config, params, None, "int8")
  more = dataclasses.replace(config, layers=4)
  with pytest.raises(XpoError, match="blocks/attention/query: shape"):
    save(tmp_path / "n", more, params, None)
  params["final_norm"]["scale"][0] = 1e6
  with pytest.raises(XpoError, match="too large for float16"):
    save(tmp_path / "n", config, params, None, "float16")
  assert not (tmp_path / "n").exists()
