"""The safetensors files of a model folder, opened and checked.

Only safetensors: pickle-based files are refused, never opened.
"""

from pathlib import Path
import re

import numpy as np
import safetensors

from xpo_jax.errors import checkpoint_error, first_line
from xpo_jax.models.weights import json_file

INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 32 * 2**20
MAX_TENSORS = 100_000
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}\.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
# Old exports hold what is recomputed: frequencies and causal masks.
_BUFFERS = re.compile(
  r".*rotary_emb\.inv_freq|.*\.(attn|attention)\.(masked_)?bias"
)


def files_of(folder: Path) -> list[Path]:
  """The safetensors files that make up the model."""
  single = folder / "model.safetensors"
  if single.is_file():
    return [single]
  index = folder / INDEX
  if index.is_file():
    return _files_of_index(index)
  found = sorted(folder.glob("*.safetensors"))
  if found:
    return found
  pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
  if pickles:
    raise checkpoint_error(
      f"{folder / pickles[0]}: pickle-based weights are never opened; convert"
      " to safetensors"
    )
  raise checkpoint_error(f"{folder}: no *.safetensors file")


def _weight_map(index: Path) -> dict[str, str]:
  found = json_file.read_json(index).get("weight_map")
  if not isinstance(found, dict) or not found:
    raise checkpoint_error(f"{index}: no weight_map")
  return found


def _files_of_index(index: Path) -> list[Path]:
  shards = sorted({str(s) for s in _weight_map(index).values()})
  for shard in shards:
    if not _FILE_NAME.fullmatch(shard):
      raise checkpoint_error(
        f"{index}: shard {shard!r} is not a plain *.safetensors file name"
      )
    if not (index.parent / shard).is_file():
      raise checkpoint_error(
        f"{index}: shard {shard!r} is missing; copy it into the folder"
      )
  return [index.parent / shard for shard in shards]


def open_file(path: Path):
  """A safetensors handle; the library checks offsets, overlaps and holes."""
  try:
    _check_header(path)
    return safetensors.safe_open(path, framework="numpy")
  except OSError as e:
    raise checkpoint_error(f"{path}: {first_line(e)}") from e
  except safetensors.SafetensorError as e:
    raise checkpoint_error(
      f"{path}: {first_line(e)}; copy the file again"
    ) from e


def _check_header(path: Path) -> None:
  """Its size and number of tensors, and names given twice.

  Of two tensors of one name the library takes the last without a word, and it
  needs seconds for a million of them.

  Raises:
    XpoError: too large, a key twice, or no JSON.
  """
  with open(path, "rb") as f:
    size = int.from_bytes(f.read(8), "little")
    if size > MAX_HEADER_BYTES:
      raise checkpoint_error(
        f"{path}: header of {size} bytes, at most {MAX_HEADER_BYTES}; not a"
        " safetensors file, or a damaged one"
      )
    header = f.read(size)
  count = header.count(b'"data_offsets"')
  if count > MAX_TENSORS:
    raise checkpoint_error(f"{path}: {count} tensors, at most {MAX_TENSORS}")
  try:
    found = json_file.parse(header.decode("utf-8"))
  except (ValueError, RecursionError) as e:
    raise checkpoint_error(
      f"{path}: no safetensors header ({first_line(e)}); copy the file again"
    ) from e
  if len(found) > MAX_TENSORS + 1:  # and the metadata
    raise checkpoint_error(
      f"{path}: {len(found)} tensors, at most {MAX_TENSORS}"
    )


def homes(files: dict) -> dict[str, Path]:
  """{tensor name: its file}; buffers that are recomputed left out."""
  home = {}
  for path, handle in files.items():
    for name in handle.keys():
      if name in home:
        raise checkpoint_error(
          f"{path}: tensor {name!r} is also in {home[name].name}; remove one"
        )
      if not _BUFFERS.fullmatch(name):
        home[name] = path
  return home


def check_index(folder: Path, home: dict[str, Path]) -> None:
  """Compares the index, if it is in use, with what the shards hold."""
  index = folder / INDEX
  if (folder / "model.safetensors").is_file() or not index.is_file():
    return
  for name, shard in _weight_map(index).items():
    there = home.get(name)
    if there is None and not _BUFFERS.fullmatch(name):
      raise checkpoint_error(
        f"{index}: tensor {name!r} is not in {shard}; copy the shard again"
      )
    if there is not None and there.name != shard:
      raise checkpoint_error(
        f"{index}: tensor {name!r} is in {there.name}, not in {shard}"
      )


def read_tensor(
  files: dict,
  home: dict[str, Path],
  name: str,
  part: tuple[slice, ...] | None = None,
) -> np.ndarray:
  """One tensor, or only a part of it, as finite float32."""
  try:
    tensor = files[home[name]].get_slice(name)
    part = (slice(None),) * len(tensor.get_shape()) if part is None else part
    value = tensor[part].astype(np.float32)
  except (OSError, safetensors.SafetensorError) as e:
    raise checkpoint_error(f"{home[name]}: {first_line(e)}") from e
  if not np.isfinite(value).all():
    raise checkpoint_error(
      f"{home[name]}: tensor {name!r} holds NaN or Inf; these weights are"
      " broken"
    )
  return value
