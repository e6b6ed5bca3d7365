"""Models written as Hugging Face folders: whole, or a LoRA adapter alone.

Everything is written beside the target and renamed at the end: a killed export
leaves no half folder.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import os
from pathlib import Path
import shutil
import tempfile

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import save_file

from xpo_jax.errors import (
  checkpoint_error,
  first_line,
  storage_error,
  usage_error,
)
from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.models.weights import json_file, names, tokenizer_files
from xpo_jax.models.weights.families import family_of, rows_of
from xpo_jax.models.weights.safetensors_files import INDEX
from xpo_jax.models.weights.safetensors_folder import (
  SCORE,
  SCORE_BIAS,
  check_vocabulary,
)
from xpo_jax.models.weights.tokenizer import Tokenizer
from xpo_jax.types import PyTree

SHARD_BYTES = 4 * 10**9
DTYPES = {
  "float32": np.float32,
  "bfloat16": ml_dtypes.bfloat16,
  "float16": np.float16,
}
_META = {"format": "pt"}  # transformers refuses files without it
Tensors = list[tuple[str, Callable[[], np.ndarray]]]


def save_folder(
  folder: str | Path,
  config: TransformerConfig,
  params: Mapping,
  tokenizer: Tokenizer | None,
  dtype: str = "float32",
  shard_bytes: int = SHARD_BYTES,
  reward_head: PyTree | None = None,
) -> None:
  """Writes a folder that `load_folder` and Hugging Face tools read.

  Args:
    folder: new, or empty.
    config: the model's sizes; its family decides names and config.json.
    params: the parameter tree; one shard of it at a time is copied.
    tokenizer: written too unless None.
    dtype: "float32" (exact), "bfloat16" or "float16".
    shard_bytes: larger models are split into shards with an index.
    reward_head: makes it a sequence-classification model with one label. A
      bias other than 0 is kept as score.bias, which only we read; transformers
      then gives scores lower by that constant.

  Raises:
    XpoError: (64) unknown dtype, (66) tree and config differ or a weight does
      not fit the dtype, (74) the folder is not empty or cannot be written.
  """
  if dtype not in DTYPES:
    raise usage_error(f"dtype={dtype!r}: want one of {', '.join(DTYPES)}")
  check_vocabulary(config, tokenizer, folder)
  rows = rows_of(config)
  if reward_head is not None:
    rows = family_of(config).rows
  names.check_tree(params, rows, config)
  tensors = list(names.tensors(params, rows, config))
  shapes = names.expected(rows, config)
  if reward_head is not None:
    head = _reward_tensors(reward_head)
    tensors += head
    shapes |= {name: make().shape for name, make in head}
  with new_folder(folder) as part:
    _write_config(part, config, tokenizer, dtype, reward_head is not None)
    _write_tensors(part, tensors, shapes, dtype, shard_bytes)


def _reward_tensors(head: PyTree) -> Tensors:
  kernel, bias = np.asarray(head["kernel"]), np.asarray(head["bias"])
  made = [(SCORE, lambda: kernel[None])]
  if bias != 0:
    made.append((SCORE_BIAS, lambda: bias[None]))
  return made


@contextlib.contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
  """A scratch folder that becomes `folder` when all went well.

  Raises:
    XpoError: (74) the folder is not empty or cannot be written.
  """
  folder = Path(folder)
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise storage_error(f"{folder}: exists and is not empty; name a new folder")
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    try:
      yield part
      os.replace(part, folder)
    except BaseException:
      shutil.rmtree(part, ignore_errors=True)
      raise
  except (OSError, safetensors.SafetensorError) as e:
    raise storage_error(f"{folder}: {first_line(e)}") from e


def _write_config(folder, config, tokenizer, dtype, judges) -> None:
  family, ids = family_of(config), {}
  if tokenizer is not None:
    ids = {"eos_token_id": tokenizer.eos_id, "bos_token_id": tokenizer.bos_id}
    tokenizer_files.save_tokenizer(tokenizer, folder)
  kind = family.reward_model if judges else family.language_model
  content = {"architectures": [kind], "model_type": family.model_type}
  content |= family.write(config) | {"torch_dtype": dtype, "dtype": dtype}
  if judges:
    content |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
  json_file.write_json(folder / "config.json", content | ids)
  # Not in config.json: there a pad id would stop EOS's row from training.
  pad = {"pad_token_id": ids["eos_token_id"]} if ids else {}
  json_file.write_json(folder / "generation_config.json", ids | pad)


def _write_tensors(folder, tensors, shapes, dtype, shard_bytes) -> None:
  """One shard after another, so that only one is in memory."""
  width = np.dtype(DTYPES[dtype]).itemsize
  sizes = {n: width * int(np.prod(shapes[n])) for n, _ in tensors}
  make = dict(tensors)
  shards = _split(sizes, shard_bytes)
  weight_map = {}
  for i, shard in enumerate(shards):
    name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
    name = name if len(shards) > 1 else "model.safetensors"
    write_file(folder / name, {n: make[n]() for n in shard}, dtype)
    weight_map |= dict.fromkeys(shard, name)
  if len(shards) > 1:
    total = {"total_size": sum(sizes.values())}
    index = {"metadata": total, "weight_map": weight_map}
    json_file.write_json(folder / INDEX, index)


def write_file(path: Path, tensors: dict[str, np.ndarray], dtype: str) -> None:
  """One safetensors file of finite weights."""
  save_file({n: _cast(n, x, dtype) for n, x in tensors.items()}, path, _META)


def _cast(name: str, x: np.ndarray, dtype: str) -> np.ndarray:
  with np.errstate(over="ignore"):
    y = np.ascontiguousarray(x.astype(DTYPES[dtype]))
  if not np.isfinite(y.astype(np.float32)).all():
    raise checkpoint_error(
      f"tensor {name!r} holds NaN, Inf, or a number too large for {dtype}"
    )
  return y


def _split(sizes: dict[str, int], shard_bytes: int) -> list[list[str]]:
  """Tensor names in order, grouped so that no group passes shard_bytes."""
  shards, size = [[]], 0
  for name, bytes_ in sizes.items():
    if shards[-1] and size + bytes_ > shard_bytes:
      shards.append([])
      size = 0
    shards[-1].append(name)
    size += bytes_
  return shards
