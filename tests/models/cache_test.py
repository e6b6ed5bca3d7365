"""Arrays on disk: whole, or computed anew; no room is one line."""

import errno
import fcntl
import os

import numpy as np
import pytest

from xpo_jax.errors import XpoError
from xpo_jax.models import cache


def test_clean_removes_what_nobody_is_writing(tmp_path):
  names = {
    "trunk-0a.1.part": True,
    "logps-0b.2.part": False,
    "logps-0b.npy": True,
    "odd.part": False,
  }
  for name in names:
    (tmp_path / name).touch()
  with open(tmp_path / "trunk-0a.1.part", "rb") as held:
    fcntl.flock(held, fcntl.LOCK_EX)
    cache.clean(tmp_path)
  assert {p.name for p in tmp_path.iterdir()} == {n for n in names if names[n]}
  cache.clean(tmp_path / "absent")


def numbers(out):
  out[:] = np.arange(out.size).reshape(out.shape)


@pytest.mark.parametrize(
  "break_it",
  [
    lambda path: os.truncate(path, path.stat().st_size - 4),
    lambda path: path.write_bytes(b""),
    lambda path: np.save(path, np.zeros(6, np.float64)),
  ],
)
def test_a_broken_file_is_computed_anew(tmp_path, break_it):
  made = cache.cached(tmp_path, "x", {"a": 1}, (3, 2), numbers)
  assert made.tolist() == [[0, 1], [2, 3], [4, 5]]
  (path,) = tmp_path.glob("x-*.npy")
  break_it(path)
  again = cache.cached(tmp_path, "x", {"a": 1}, (3, 2), numbers)
  assert again.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(cache.os, "posix_fallocate", full)
  with pytest.raises(XpoError, match="8 MB cannot be written") as error:
    cache.cached(tmp_path, "x", {}, (1000, 2000), numbers)
  assert error.value.code == 74 and "No space left" in str(error.value)
  assert not list(tmp_path.iterdir())


def test_room_can_be_taken_by_writing(tmp_path, monkeypatch):
  monkeypatch.delattr(cache.os, "posix_fallocate")
  monkeypatch.setattr(cache, "_ZEROS", 10)
  made = cache.cached(tmp_path, "x", {}, (5, 2), numbers)
  assert made.ravel().tolist() == list(range(10))
  empty = cache.cached(tmp_path, "y", {}, (0,), numbers)
  assert empty.shape == (0,)
