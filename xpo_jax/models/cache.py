"""Arrays of numbers on disk under a content key, whole or not at all."""

from collections.abc import Callable
import contextlib
import fcntl
import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np

from xpo_jax.errors import storage_error

LAYOUT = 1  # raise when the order of slots in a group changes
_ZEROS = 2**20


def cached(
  folder: Path,
  name: str,
  key: dict,
  shape: tuple[int, ...],
  fill: Callable[[np.ndarray], None],
  agree: Callable[[bool], bool] = bool,
) -> np.ndarray:
  """A float32 array of `shape` under its content key; filled if absent.

  Several processes that fill it together `agree` whether all have it.
  """
  text = json.dumps(key | {"layout": LAYOUT}, sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()[:24]
  path = folder / f"{name}-{digest}.npy"
  if not agree(_usable(path, shape)):
    try:
      _fill(path, shape, fill)
    except OSError as e:
      raise storage_error(
        f"{path}: {4 * math.prod(shape) / 1e6:.0f} MB cannot be written "
        f"({e.strerror or e}); free space or set XPO_CACHE to another folder"
      ) from e
  return np.load(path, mmap_mode="r", allow_pickle=False)


def _usable(path: Path, shape: tuple[int, ...]) -> bool:
  """Whether the whole array is there; half of one is computed anew."""
  try:
    found = np.load(path, mmap_mode="r", allow_pickle=False)
  except (OSError, ValueError, EOFError):
    return False
  return found.shape == shape and found.dtype == np.float32


def _fill(path: Path, shape: tuple[int, ...], fill: Callable) -> None:
  """Writes beside `path` under a lock that dies with this process."""
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_suffix(f".{os.getpid()}.part")
  with open(part, "w+b") as f:
    fcntl.flock(f, fcntl.LOCK_EX)
    try:
      out = np.lib.format.open_memmap(
        part, mode="w+", dtype=np.float32, shape=shape
      )
      # A hole that the disk cannot fill would end the process (SIGBUS).
      _reserve(f, out.offset, max(out.offset + out.nbytes, 1))
      fill(out)
      out.flush()
      os.fsync(f.fileno())
      part.replace(path)
    except BaseException:
      part.unlink(missing_ok=True)
      raise


def _reserve(f, start: int, size: int) -> None:
  """Raises OSError now if the disk has no room for bytes start..size."""
  if hasattr(os, "posix_fallocate"):
    os.posix_fallocate(f.fileno(), start, size - start)
    return
  f.seek(start)
  for at in range(start, size, _ZEROS):
    f.write(bytes(min(_ZEROS, size - at)))
  f.flush()


def clean(folder: Path) -> None:
  """Removes halves of interrupted computations, known by their free locks."""
  for part in folder.glob("*.part"):
    with contextlib.suppress(OSError), open(part, "rb") as f:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
      part.unlink()
