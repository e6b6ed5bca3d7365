"""A JSONL file that grows by a slice of prompts at a time, and is resumed."""

from collections.abc import Callable, Sequence
import json
import os
from pathlib import Path

from xpo_jax import hosts, progress
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


def grow(
  path: Path,
  prompts: Sequence[Prompt],
  size: int,
  title: str,
  make: Callable[[int], list[dict]],
  enough: Callable[[list[dict]], bool] | None = None,
) -> list[dict]:
  """The rows of all prompts: those that are there, then slice by slice.

  Args:
    path: as of `resume`.
    prompts: likewise.
    size: likewise.
    title: of the progress bar.
    make: number of the slice's first prompt -> its rows, on all processes.
    enough: whether these rows will do; all processes go by process 0's.

  Raises:
    XpoError: as of `resume` and `append`, and whatever `make` raises.
  """
  rows = resume(path, prompts, size)
  with progress.track(len(prompts), title, initial=len(rows)) as task:
    for at in range(len(rows), len(prompts), size):
      done = enough(rows) if enough else False
      if enough and hosts.first(lambda done=done: done):
        break
      made = make(at)
      append(path, made)
      rows += made
      task.advance(n=len(made))
  return rows


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
