"""A GGUF header, walked before the library reads it.

The library believes every length: an array that claims 2^60 entries would keep
it busy for ever, and an offset past 2^64 would wrap around.
"""

import math
import mmap
from pathlib import Path
import struct

import gguf

VERSIONS = (2, 3)
MAX_ENTRIES = 100_000  # tensors, or fields
MAX_ELEMENTS = 2**21  # of all arrays; the largest vocabularies have 2^18
MAX_AXES = 4
_STRING, _ARRAY = 8, 9
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def check(path: Path) -> None:
  """Compares every length and offset of the header with the file's size.

  Raises:
    ValueError: what is wrong, in one line.
  """
  with open(path, "rb") as f:
    if f.read(4) != b"GGUF":
      raise ValueError("not a GGUF file")
    with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
      try:
        _walk(data)
      except struct.error as e:
        raise ValueError("the header is cut short") from e


def _walk(data: mmap.mmap) -> None:
  version, tensors, fields = struct.unpack_from("<IQQ", data, 4)
  if version not in VERSIONS:
    raise ValueError(f"version {version}, want 2 or 3")
  if max(tensors, fields) > MAX_ENTRIES:
    raise ValueError(
      f"announces {tensors} tensors and {fields} fields, at most {MAX_ENTRIES}"
    )
  at, elements = 24, 0
  for _ in range(fields):
    at = _string(data, at)
    (kind,) = struct.unpack_from("<I", data, at)
    at, count = _value(data, at + 4, kind)
    elements += count
    if elements > MAX_ELEMENTS:
      raise ValueError(f"more than {MAX_ELEMENTS} elements in its arrays")
  ends = []
  for _ in range(tensors):
    at, end = _tensor(data, at)
    ends.append(end)
  if at + max(ends, default=0) > len(data):
    raise ValueError("a tensor lies beyond the file's end")


def _string(data: mmap.mmap, at: int) -> int:
  """Where the string at `at` ends."""
  (length,) = struct.unpack_from("<Q", data, at)
  end = at + 8 + length
  if end > len(data):
    raise ValueError(f"a text of {length} bytes in a file of {len(data)}")
  return end


def _value(data: mmap.mmap, at: int, kind: int) -> tuple[int, int]:
  """Where a field's value ends, and how many elements it has."""
  if kind == _STRING:
    return _string(data, at), 1
  if kind in _SCALARS:
    return at + _SCALARS[kind], 1
  if kind != _ARRAY:
    raise ValueError(f"a field of the unknown type {kind}")
  kind, count = struct.unpack_from("<IQ", data, at)
  at += 12
  if kind != _STRING and kind not in _SCALARS:
    raise ValueError(f"an array of the type {kind}")
  if count > MAX_ELEMENTS or at + count * _SCALARS.get(kind, 8) > len(data):
    raise ValueError(f"an array of {count} in a file of {len(data)} bytes")
  if kind != _STRING:
    return at + count * _SCALARS[kind], count
  for _ in range(count):
    at = _string(data, at)
  return at, count


def _tensor(data: mmap.mmap, at: int) -> tuple[int, int]:
  """Where a tensor's entry ends; where its data end, from the data's start."""
  at = _string(data, at)
  (axes,) = struct.unpack_from("<I", data, at)
  if axes > MAX_AXES:
    raise ValueError(f"a tensor of {axes} axes, at most {MAX_AXES}")
  shape = struct.unpack_from(f"<{axes}Q", data, at + 4)
  kind, offset = struct.unpack_from("<IQ", data, at + 4 + 8 * axes)
  block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
  end = offset + math.prod(shape) * size // block
  return at + 16 + 8 * axes, end
