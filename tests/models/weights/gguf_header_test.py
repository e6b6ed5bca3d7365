"""The walk over a GGUF header, its bytes by hand."""

import struct

import pytest

from tests.models.weights import tiny_gguf
from xpo_jax.models.weights import gguf_header

text = lambda s: struct.pack("<Q", len(s)) + s
field = lambda kind, value: text(b"key") + struct.pack("<I", kind) + value
array = lambda kind, count: field(9, struct.pack("<IQ", kind, count))


def tensor(shape=(4,), kind=0, offset=0) -> bytes:
  axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
  return text(b"t") + axes + struct.pack("<IQ", kind, offset)


def header(*fields: bytes, tensors=(), version=3) -> bytes:
  counts = struct.pack("<IQQ", version, len(tensors), len(fields))
  return b"GGUF" + counts + b"".join((*fields, *tensors))


def check(tmp_path, content: bytes) -> None:
  path = tmp_path / "m.gguf"
  path.write_bytes(content)
  gguf_header.check(path)


STRINGS = array(8, 2) + text(b"x") + text(b"")
SOUND = header(
  field(4, bytes(4)),
  field(8, text("é".encode())),
  STRINGS,
  array(6, 3) + bytes(12),
  tensors=(tensor((2, 2)), tensor((8,), offset=16)),
)


def test_sound_files(tmp_path):
  gguf_header.check(tiny_gguf.write(tmp_path / "x.gguf", "untied"))
  check(tmp_path, SOUND + bytes(48))
  with pytest.raises(ValueError, match="a tensor lies beyond the file's end"):
    check(tmp_path, SOUND + bytes(47))


def test_cut_anywhere(tmp_path):
  for length in range(len(SOUND)):
    with pytest.raises(ValueError):
      check(tmp_path, SOUND[:length])


BAD = {
  "not a GGUF file": b"PK\x03\x04" + bytes(40),
  "version 1, want 2 or 3": header(version=1),
  "announces 0 tensors and 9223372036854775808": b"GGUF"
  + struct.pack("<IQQ", 3, 0, 2**63),
  "a text of 99 bytes in a file of": header(struct.pack("<Q", 99)),
  "a field of the unknown type 13": header(field(13, bytes(8))),
  "an array of the type 9": header(array(9, 1)),
  "an array of 1152921504606846976 in a file": header(array(0, 2**60)),
  "an array of 100 in a file": header(array(12, 100) + bytes(799)),
  "a tensor of 5 axes": header(tensors=(tensor((1,) * 5),)),
  "99 is not a valid": header(tensors=(tensor(kind=99),)),
  "a tensor lies beyond": header(tensors=(tensor((2**32, 2**32)),)) + bytes(99),
  "lies beyond the file's end": header(tensors=(tensor(offset=2**64 - 16),))
  + bytes(99),
}


@pytest.mark.parametrize("words", BAD)
def test_damaged_or_made_to_harm(tmp_path, words):
  with pytest.raises(ValueError, match=words):
    check(tmp_path, BAD[words])


def test_elements_are_counted_over_all_arrays(tmp_path, monkeypatch):
  monkeypatch.setattr(gguf_header, "MAX_ELEMENTS", 9)
  half = array(0, 5) + bytes(5)
  check(tmp_path, header(half))
  with pytest.raises(ValueError, match="more than 9 elements in its arrays"):
    check(tmp_path, header(half, half))
