"""K13 to K32 of weights: files that are damaged, foreign or made to harm."""

import dataclasses
import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.models.weights import tiny_gguf, tiny_llama
from xpo_jax import evaluation
from xpo_jax.errors import Exit, XpoError
from xpo_jax.models.model import Model
from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.models.weights import gguf_file, load, safetensors_folder
from xpo_jax.models.weights.tokenizer import byte_tokenizer
from xpo_jax.pretrained import Pretrained, random_params


def load_error(source) -> str:
  """The one line of an error with exit code 66 that names the source."""
  with pytest.raises(XpoError) as caught:
    load.load_weights(str(source))
  assert caught.value.code == Exit.CHECKPOINT
  message = str(caught.value)
  assert "\n" not in message and str(source) in message
  return message


@pytest.fixture
def folder(tmp_path):
  """A sound model folder to spoil."""
  return tiny_llama.write(tmp_path / "m", "tied")


# Weights of another kind.

SIZES = TransformerConfig(20, 8, 1, 2, 1, 4, 8)


def loaded(head=None, tokenizer=None) -> Pretrained:
  tokenizer = tokenizer or byte_tokenizer()
  return Pretrained(Model(SIZES), {}, tokenizer, head)


def test_k13_policy_weights_given_as_reward_model():
  with pytest.raises(XpoError) as caught:
    evaluation._check_heads({"rm": "runs/dpo"}, {"rm": loaded()})
  assert caught.value.code == Exit.USAGE
  assert str(caught.value) == (
    "evaluate.rewards.rm=runs/dpo: no value head, these are a policy's weights;"
    " name a run of a reward model, as rm_bt"
  )
  evaluation._check_heads({"rm": "x"}, {"rm": loaded({"bias": 0.0})})
  with pytest.raises(XpoError, match="this model has no reward head"):
    loaded().rewards([], [])


def test_k13_a_policy_folder_that_says_it_is_a_reward_model(tmp_path):
  kind = ["LlamaForSequenceClassification"]
  folder = tiny_llama.write(tmp_path / "m", "tied", architectures=kind)
  assert "misses tensor 'score.weight'" in load_error(folder)


def test_k14_a_reward_model_of_another_vocabulary(tmp_path):
  other = gguf_file.load_gguf(tiny_gguf.write(tmp_path / "m.gguf", "tied"))[2]
  models = [loaded(), loaded({"bias": 0.0}, other)]
  with pytest.raises(XpoError, match="have different tokenizers; compare"):
    evaluation._common_tokenizer(models)
  assert evaluation._common_tokenizer(models[:1]) is models[0].tokenizer
  none = Pretrained(Model(SIZES), {}, None, None)
  with pytest.raises(XpoError, match="has no tokenizer; add tokenizer.json"):
    evaluation._common_tokenizer([none, *models])


def test_k15_a_lora_file_as_a_full_model(folder):
  module = "base_model.model.model.layers.0.self_attn.q_proj"
  factors = {
    f"{module}.lora_A.weight": np.ones((2, 24), np.float32),
    f"{module}.lora_B.weight": np.ones((32, 2), np.float32),
  }
  save_file(factors, folder / "model.safetensors")
  words = "these are LoRA factors; merge them into their base first"
  assert words in load_error(folder)
  (folder / "config.json").rename(folder / "adapter_config.json")
  assert "a LoRA adapter, not a whole model; merge it" in load_error(folder)


def test_a_run_s_sizes_are_not_drawn_blindly():
  """A model.json of few bytes may name any; 4 GiB of embedding here."""
  huge = dataclasses.replace(SIZES, vocab_size=2**20, width=2**10)
  with pytest.raises(XpoError, match="weights would be drawn, at most 268435"):
    random_params(Model(huge), 0)


@pytest.mark.parametrize(
  "name", ["pytorch_model.bin", "m.pt", "m.pth", "m.pkl", "m.ckpt"]
)
def test_k16_pickles_are_never_opened(folder, name):
  (folder / "model.safetensors").unlink()
  (folder / name).write_bytes(b"\x80\x04.")
  assert load_error(folder) == (
    f"{folder / name}: pickle-based weights are never opened; convert to"
    " safetensors"
  )


# safetensors files, their bytes by hand.


def entry(name: str, shape="[4]", at=(0, 16), dtype="F32") -> str:
  return (
    f'"{name}":{{"dtype":"{dtype}","shape":{shape},'
    f'"data_offsets":[{at[0]},{at[1]}]}}'
  )


def file(*entries: str, data: int = 64, length: int | None = None) -> bytes:
  header = f"{{{','.join(entries)}}}".encode()
  size = len(header) if length is None else length
  return struct.pack("<Q", size) + header + bytes(data)


FILES = {
  "k17 overlap": (
    file(entry("a"), entry("b", at=(8, 24)), data=24),
    "invalid offset for tensor",
  ),
  "k18 hole": (
    file(entry("a"), entry("b", at=(32, 48)), data=48),
    "invalid offset for tensor",
  ),
  "k18 bytes that belong to nobody": (
    file(entry("a"), data=17),
    "file not fully covered",
  ),
  "k19 header of 101 MB": (
    file(length=101 * 2**20),
    "header of 105906176 bytes, at most 33554432",
  ),
  "k20 length 2^63": (
    file(length=2**63),
    "header of 9223372036854775808 bytes, at most 33554432",
  ),
  "k21 a tensor twice": (
    file(entry("a"), entry("a", at=(16, 32)), data=32),
    "key 'a' twice in one object",
  ),
  "k21 a dtype twice": (
    file(entry("a").replace('"shape"', '"dtype":"I32","shape"'), data=16),
    "key 'dtype' twice in one object",
  ),
  "k22 dim -1": (
    file(entry("a", "[-1]", (0, 4)), data=4),
    "invalid value: integer `-1`",
  ),
  "k22 dims whose product wraps": (
    file(entry("a", "[9223372036854775808,2]", (0, 0)), data=0),
    "overflow",
  ),
  "k23 unknown dtype": (
    file(entry("a", dtype="F99"), data=16),
    "unknown variant `F99`",
  ),
  "k24 100,001 tensors": (
    file(*(entry(f"{i}", "[0]", (0, 0)) for i in range(100_001)), data=0),
    "100001 tensors, at most 100000",
  ),
  "k24 their keys in disguise": (
    file(*(f'"{i}":0' for i in range(100_002)), data=0),
    "100002 tensors, at most 100000",
  ),
  "k32 zip": (b"PK\x03\x04" + bytes(100), "header of "),
  "k32 pickle": (b"\x80\x04\x95" + bytes(100), "no safetensors header ("),
  "empty": (b"", "copy the file again"),
  "not JSON": (file("..."), "copy the file again"),
  "not UTF-8": (struct.pack("<Q", 2) + b"\xff\xfe", "copy the file again"),
  "a list": (struct.pack("<Q", 2) + b"[]", "copy the file again"),
  "deep": (file('"a":' + "[" * 9999 + "]" * 9999), "recursion"),
}


@pytest.mark.parametrize("case", FILES)
def test_safetensors_files(folder, case):
  content, words = FILES[case]
  (folder / "model.safetensors").write_bytes(content)
  message = load_error(folder)
  assert message.startswith(f"{folder / 'model.safetensors'}: ")
  assert words in message


def test_the_bytes_above_make_a_sound_file(folder):
  (folder / "model.safetensors").write_bytes(
    file(entry("a"), entry("b", at=(16, 32)), data=32)
  )
  assert "belong to different models" in load_error(folder)


# config.json and the index.

JSON = {
  "a key twice": ('{"hidden_size": 24, "hidden_size": 8}', "key 'hidden_size'"),
  "NaN": ('{"rope_theta": NaN}', "NaN is no JSON number"),
  "deep": ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "recursion"),
  "a number of 5000 digits": ('{"a": ' + "1" * 5000 + "}", "4300 digits"),
}


@pytest.mark.parametrize("case", JSON)
def test_json_is_strict(folder, case):
  text, words = JSON[case]
  (folder / "config.json").write_text(text)
  message = load_error(folder)
  assert "config.json: not valid JSON (" in message and words in message


def test_json_has_a_size(folder):
  with open(folder / "tokenizer.json", "wb") as f:
    f.truncate(180_000_000)  # of 10^7 tokens; sparse
  assert "tokenizer.json: 180000000 bytes, at most 67108864" in load_error(
    folder
  )


@pytest.mark.parametrize("shard", ["../x.safetensors", "/x.safetensors", 7])
def test_k26_a_shard_elsewhere(folder, shard):
  (folder / "model.safetensors").unlink()
  (folder / "model.safetensors.index.json").write_text(
    json.dumps({"weight_map": {"a": shard}})
  )
  assert "is not a plain *.safetensors file name" in load_error(folder)


def test_links_stay_in_the_folder_or_the_cache_s_blobs(folder, tmp_path):
  secret = tmp_path / "secret"
  secret.write_text("mine")
  link = folder / "chat_template.jinja"
  link.symlink_to(secret)
  assert load_error(folder) == (
    f"{link}: the link leaves the folder, to {secret}; copy the file"
  )
  link.unlink()
  # As the hub's cache lays its files out.
  blobs, snapshot = tmp_path / "hub/blobs", tmp_path / "hub/snapshots/c0ffee"
  blobs.mkdir(parents=True), snapshot.mkdir(parents=True)
  for path in folder.iterdir():
    path.rename(blobs / path.stem)
    (snapshot / path.name).symlink_to(f"../../blobs/{path.stem}")
  assert load.load_weights(str(snapshot)).config_kwargs["layers"] == 3
  (snapshot / "x").symlink_to("../../../secret")
  assert "the link leaves the folder" in load_error(snapshot)


def test_a_folder_s_leaves_are_finite(folder):
  """K27: found where they are read."""
  tensors = tiny_llama.tensors("tied")
  tensors["model.norm.weight"][3] = np.inf
  save_file(tensors, folder / "model.safetensors")
  with pytest.raises(XpoError, match="holds NaN or Inf"):
    safetensors_folder.load_folder(folder)
