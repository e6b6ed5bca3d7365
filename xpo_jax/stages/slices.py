"""A JSONL file that grows by a slice of prompts at a time, and is resumed."""

from collections.abc import Sequence
import json
import os
from pathlib import Path

from xpo_jax import hosts
from xpo_jax.data.records import Prompt
from xpo_jax.errors import checkpoint_error, storage_error
from xpo_jax.score_rows import plain_prompt


def resume(path: Path, prompts: Sequence[Prompt], size: int) -> list[dict]:
  """The rows of whole slices that are there; what follows them is cut off.

  Process 0 reads the file, and all get its rows.

  Args:
    path: need not exist.
    prompts: of all rows, in order; a row has the key "prompt".
    size: prompts of a slice; the last one may be shorter.

  Raises:
    XpoError: (66) they are of other prompts, (74) unreadable.
  """
  return hosts.first(lambda: _read(path, prompts, size))


def _read(path: Path, prompts: Sequence[Prompt], size: int) -> list[dict]:
  try:
    raw = path.read_bytes() if path.exists() else b""
  except OSError as e:
    raise storage_error(f"{path}: {e.strerror or e}") from e
  lines = raw[: raw.rfind(b"\n") + 1].splitlines(keepends=True)
  whole = len(lines)
  if whole < len(prompts):
    whole -= whole % size
  rows = [_row(path, n, line, prompts) for n, line in enumerate(lines[:whole])]
  kept = sum(map(len, lines[:whole]))
  if kept < len(raw):
    os.truncate(path, kept)
  return rows


def _row(path: Path, n: int, line: bytes, prompts: Sequence[Prompt]) -> dict:
  try:
    row = json.loads(line)
    same = row["prompt"] == plain_prompt(prompts[n])
  except (ValueError, LookupError, TypeError, RecursionError):
    same = False
  if not same:
    raise checkpoint_error(
      f"{path}:{n + 1}: not a row of this stage; delete {path.parent}"
    )
  return row


def append(path: Path, rows: Sequence[dict]) -> None:
  """Adds a slice so that a crash cannot lose it; process 0 does."""
  hosts.first(lambda: _write(path, rows))


def _write(path: Path, rows: Sequence[dict]) -> None:
  try:
    with open(path, "a", encoding="utf-8") as f:
      f.writelines(json.dumps(row) + "\n" for row in rows)
      f.flush()
      os.fsync(f.fileno())
  except OSError as e:
    raise storage_error(
      f"{path}: {e.strerror or e}; free space and start again"
    ) from e
