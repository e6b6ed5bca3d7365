"""Hugging Face Llama folders, in and out.

config.json, *.safetensors (with or without an index), tokenizer files. Only
safetensors: pickle-based files are refused, never opened.
"""

from collections.abc import Mapping
import contextlib
import os
from pathlib import Path
import shutil
import tempfile

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import save_file

from xpo_jax.errors import checkpoint_error, storage_error, usage_error
from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.models.weights import (
  json_file,
  llama_config,
  llama_names,
  tokenizer_files,
)
from xpo_jax.models.weights.safetensors_files import (
  INDEX,
  check_index,
  files_of,
  homes,
  open_file,
  read_tensor,
)
from xpo_jax.models.weights.tokenizer import Tokenizer
from xpo_jax.types import PyTree

SHARD_BYTES = 4 * 10**9
FLOATS = ("F32", "F16", "BF16")
DTYPES = {
  "float32": np.float32,
  "bfloat16": ml_dtypes.bfloat16,
  "float16": np.float16,
}


def load_folder(
  folder: str | Path,
) -> tuple[TransformerConfig, PyTree, Tokenizer | None]:
  """Reads a folder into (sizes, numpy float32 tree, tokenizer or None).

  Names, shapes and dtypes are compared with config.json before any weight is
  read.

  Raises:
    XpoError: (66) one line naming the file and the mend.
  """
  folder = Path(folder)
  config_path = folder / "config.json"
  if not config_path.is_file():
    raise checkpoint_error(f"{folder}: {_why_no_model(folder)}")
  config = llama_config.config_from_hf(
    json_file.read_json(config_path), config_path
  )
  with contextlib.ExitStack() as stack:
    files = {p: stack.enter_context(open_file(p)) for p in files_of(folder)}
    home = homes(files)
    check_index(folder, home)
    aliases = _check_names(home, config, folder)
    _check_shapes(home, files, llama_names.expected(config), aliases)
    read = lambda name: read_tensor(files, home, aliases.get(name, name))
    if config.tied and llama_names.HEAD in home:
      _check_tied(read, home[llama_names.HEAD])
    params = llama_names.to_tree(read, config)
  return config, params, tokenizer_files.tokenizer_from_folder(folder)


def _why_no_model(folder: Path) -> str:
  if not folder.is_dir():
    return "no such folder"
  if (folder / "adapter_config.json").is_file():
    return "a LoRA adapter, not a whole model; merge it into its base first"
  return "no config.json; want a Hugging Face model folder"


def _check_names(
  home: dict[str, Path], config: TransformerConfig, folder: Path
) -> dict[str, str]:
  """Compares names with the config's; returns {wanted: name in the file}."""
  wanted = set(llama_names.expected(config))
  head, embedding = llama_names.HEAD, llama_names.EMBEDDING
  aliases, extra = {}, set(home) - wanted
  if config.tied:
    extra.discard(head)
    if embedding not in home and head in home:
      aliases[embedding] = head
  missing = wanted - set(home) - set(aliases)
  mend = "config.json and weights belong to different models"
  if missing == {head}:
    mend = "set tie_word_embeddings to true in config.json if it is tied"
  for what, which in (("misses", missing), ("has unknown", extra)):
    if which:
      raise checkpoint_error(f"{folder}: {what} tensor {_some(which)}; {mend}")
  return aliases


def _some(names: set[str]) -> str:
  more = f" and {len(names) - 1} more" if len(names) > 1 else ""
  return f"{min(names)!r}{more}"


def _check_shapes(home, files, expected, aliases) -> None:
  """Shapes and dtypes, from the headers alone."""
  for name, shape in expected.items():
    name = aliases.get(name, name)
    tensor = files[home[name]].get_slice(name)
    found = tuple(tensor.get_shape())
    if found != shape:
      raise checkpoint_error(
        f"{home[name]}: tensor {name!r} has shape {found}, config.json says"
        f" {shape}"
      )
    if tensor.get_dtype() not in FLOATS:
      raise checkpoint_error(
        f"{home[name]}: tensor {name!r} is {tensor.get_dtype()}, want one of"
        f" {', '.join(FLOATS)}"
      )


def _check_tied(read, path: Path) -> None:
  head, embedding = read(llama_names.HEAD), read(llama_names.EMBEDDING)
  if not np.array_equal(head, embedding):
    raise checkpoint_error(
      f"{path}: lm_head.weight differs from the embedding though config.json"
      " says tied; set tie_word_embeddings to false"
    )


def check_vocabulary(
  config: TransformerConfig, tokenizer: Tokenizer | None, where: str | Path
) -> None:
  """Refuses ids past the table: the lookup would clip them without a word."""
  if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
    raise checkpoint_error(
      f"{where}: the tokenizer has ids up to {tokenizer.vocab_size - 1}, the"
      f" model only {config.vocab_size} tokens; they do not belong together"
    )


def save_folder(
  folder: str | Path,
  config: TransformerConfig,
  params: Mapping,
  tokenizer: Tokenizer | None,
  dtype: str = "float32",
  shard_bytes: int = SHARD_BYTES,
) -> None:
  """Writes a folder that `load_folder` and Hugging Face tools read.

  Written beside the target and renamed at the end: a killed export leaves no
  half folder.

  Args:
    folder: new, or empty.
    config: the model's sizes.
    params: the parameter tree.
    tokenizer: written too unless None.
    dtype: "float32" (exact), "bfloat16" or "float16".
    shard_bytes: larger models are split into shards with an index.

  Raises:
    XpoError: (64) unknown dtype, (66) tree and config differ or a weight does
      not fit the dtype, (74) the folder is not empty or cannot be written.
  """
  folder = Path(folder)
  if dtype not in DTYPES:
    raise usage_error(f"dtype={dtype!r}: want one of {', '.join(DTYPES)}")
  check_vocabulary(config, tokenizer, folder)
  tensors = llama_names.from_tree(params, config)
  tensors = {n: _cast(n, x, dtype) for n, x in tensors.items()}
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise storage_error(f"{folder}: exists and is not empty; name a new folder")
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    try:
      _write(part, config, tensors, tokenizer, dtype, shard_bytes)
      os.replace(part, folder)
    except BaseException:
      shutil.rmtree(part, ignore_errors=True)
      raise
  except (OSError, safetensors.SafetensorError) as e:
    raise storage_error(f"{folder}: {json_file.first_line(e)}") from e


def _cast(name: str, x: np.ndarray, dtype: str) -> np.ndarray:
  with np.errstate(over="ignore"):
    y = x.astype(DTYPES[dtype])
  if not np.isfinite(y.astype(np.float32)).all():
    raise checkpoint_error(
      f"tensor {name!r} holds NaN, Inf, or a number too large for {dtype}"
    )
  return y


def _write(folder, config, tensors, tokenizer, dtype, shard_bytes) -> None:
  ids = {}
  if tokenizer is not None:
    ids = {"eos_token_id": tokenizer.eos_id, "bos_token_id": tokenizer.bos_id}
    tokenizer_files.save_tokenizer(tokenizer, folder)
  content = llama_config.config_to_hf(config, dtype)
  json_file.write_json(folder / "config.json", content | ids)
  # Not in config.json: there a pad id would stop EOS's row from training.
  pad = {"pad_token_id": ids["eos_token_id"]} if ids else {}
  json_file.write_json(folder / "generation_config.json", ids | pad)
  shards = _split(tensors, shard_bytes)
  if len(shards) == 1:
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return
  weight_map = {}
  for i, shard in enumerate(shards):
    name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
    save_file({n: tensors[n] for n in shard}, folder / name, {"format": "pt"})
    weight_map |= dict.fromkeys(shard, name)
  total = sum(x.nbytes for x in tensors.values())
  index = {"metadata": {"total_size": total}, "weight_map": weight_map}
  json_file.write_json(folder / INDEX, index)


def _split(tensors: dict[str, np.ndarray], shard_bytes: int):
  """Tensor names in order, grouped so that no group passes shard_bytes."""
  shards, size = [[]], 0
  for name, x in tensors.items():
    if shards[-1] and size + x.nbytes > shard_bytes:
      shards.append([])
      size = 0
    shards[-1].append(name)
    size += x.nbytes
  return shards
