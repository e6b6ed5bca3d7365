import jax
import numpy as np
import pytest

from tests.models.weights import tiny_gguf, tiny_llama
from xpo_jax.errors import Exit, XpoError
from xpo_jax.models.weights import (
  gguf_file,
  safetensors_folder,
  tokenizer_files,
)

CASES = pytest.mark.parametrize("case", list(tiny_llama.CASES))


@CASES
def test_same_model_as_the_hugging_face_folder(tmp_path, case):
  folder = tiny_llama.write(tmp_path / "hf", case)
  config, params, _ = safetensors_folder.load_folder(folder)
  path = tiny_gguf.write(tmp_path / "m.gguf", case)
  config_gguf, params_gguf, tokenizer = gguf_file.load_gguf(path)
  assert config_gguf == config
  jax.tree.map(np.testing.assert_array_equal, params_gguf, params)
  assert (tokenizer.eos_id, tokenizer.bos_id) == (47, None)
  assert tokenizer.vocab_size == 50
  assert tokenizer.control_id("<|a|>") == 48


def test_rows_of_one_head_by_hand():
  # One head of width 6: the file holds the pairs (0, 3), (1, 4), (2, 5).
  in_file = np.asarray([0, 3, 1, 4, 2, 5], np.float32)[:, None]
  np.testing.assert_array_equal(
    gguf_file.unpermute(in_file, 1)[:, 0], [0, 1, 2, 3, 4, 5]
  )


def test_tokenizer_merges_and_bytes_outside_the_vocabulary(tmp_path):
  path = tiny_gguf.write(tmp_path / "m.gguf", "tied")
  tokenizer = gguf_file.load_gguf(path)[2]
  # "!" is byte 33 and '"' byte 34; their merge has id 46.
  assert tokenizer.encode('!"!').tolist() == [46, 33]
  with pytest.raises(XpoError, match=r"character 1 is U\+0041") as e:
    tokenizer.encode("!A")
  assert e.value.code == Exit.DATA


def load_error(path) -> str:
  with pytest.raises(XpoError) as e:
    gguf_file.load_gguf(path)
  assert e.value.code == Exit.CHECKPOINT
  assert "\n" not in str(e.value)
  assert str(path) in str(e.value)
  return str(e.value)


def test_other_architecture(tmp_path):
  path = tiny_gguf.write(tmp_path / "m.gguf", "tied", architecture="qwen2")
  assert "architecture 'qwen2' is not supported" in load_error(path)


def test_other_tokenizer(tmp_path):
  path = tiny_gguf.write(tmp_path / "m.gguf", "tied", pre="tekken")
  assert "splitting 'tekken' is not supported" in load_error(path)


def test_no_eos(tmp_path):
  path = tiny_gguf.write(tmp_path / "m.gguf", "tied", eos=50)
  assert "eos_token_id=50, want an id below 50" in load_error(path)


def test_bos_of_a_model_that_adds_it(tmp_path):
  path = tiny_gguf.write(tmp_path / "m.gguf", "tied", add_bos=True)
  tokenizer = gguf_file.load_gguf(path)[2]
  assert tokenizer.bos_id == 48
  assert tokenizer.encode("!").tolist() == [33], "the caller adds BOS"
  tokenizer_files.save_tokenizer(tokenizer, tmp_path)
  again = tokenizer_files.tokenizer_from_folder(tmp_path)
  assert again.fingerprint() == tokenizer.fingerprint()
  assert again.core.encode("!").ids == [48, 33], "as other tools encode"


def _nan(t):
  t["output_norm.weight"][0] = np.nan


FAULTS = {
  "misses tensor 'blk.1.attn_q.weight'": lambda t: t.pop("blk.1.attn_q.weight"),
  "has unknown tensor 'blk.0.attn_q.bias'": lambda t: t.update(
    {"blk.0.attn_q.bias": np.zeros(32, np.float32)}
  ),
  "'blk.2.attn_k.weight' has shape (16, 25), the header says (16, 24)": (
    lambda t: t.update({"blk.2.attn_k.weight": np.zeros((16, 25), np.float32)})
  ),
  "tensor 'output_norm.weight' holds NaN or Inf": _nan,
}


@pytest.mark.parametrize("message", list(FAULTS))
def test_wrong_tensors(tmp_path, message):
  path = tmp_path / "m.gguf"
  assert message in load_error(
    tiny_gguf.write(path, "tied", change=FAULTS[message])
  )


@pytest.mark.parametrize("keep", [0, 3, 20, 100, 3000, -4])
def test_truncated_anywhere(tmp_path, keep):
  path = tiny_gguf.write(tmp_path / "m.gguf", "tied")
  path.write_bytes(path.read_bytes()[:keep])
  load_error(path)


@pytest.mark.parametrize(
  "start", [b"PK\x03\x04", b"GGUF\x03\0\0\0" + b"\xff" * 16]
)
def test_other_bytes(tmp_path, start):
  path = tmp_path / "m.gguf"
  path.write_bytes(start + bytes(100))
  load_error(path)
  assert "No such file" in load_error(tmp_path / "none.gguf")
