"""Rows out of JSONL, JSONL.gz and Parquet files, strictly checked."""

import codecs
from collections.abc import Iterator
import gzip
import io
import json
import os
from pathlib import Path
import zlib

from xpo_jax.data.records import Account, BadRow
from xpo_jax.errors import XpoError, data_error, storage_error

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")
MAX_LINE = 64 * 2**20  # bytes of one JSON line
MAX_INFLATED = 64 * 2**30  # bytes of one file after decompression
MAX_RATIO = 200  # inflated over compressed bytes
_RATIO_FLOOR = 2**20  # small files may compress as well as they like


def resolve(path: str) -> Path:
  """A data path typed by the operator, checked.

  Absolute paths are taken as they are. A relative path must stay below the
  current folder, symbolic links followed.

  Raises:
    XpoError: a glob, a URL, `..`, a link that leaves the folder, a folder, a
      missing file or a suffix that is not read.
  """
  where = f"data.source {path!r}"
  if not path or "\0" in path:
    raise data_error(f"{where}: name a file, or films")
  if "://" in path:
    raise data_error(f"{where}: URLs are not read; download the file first")
  if any(c in path for c in "*?["):
    raise data_error(f"{where}: globs are not read; list files, with commas")
  if ".." in Path(path).parts:
    raise data_error(f"{where}: '..' is refused; write the absolute path")
  file = Path(path).expanduser()
  if file.is_dir():
    if any(file.glob("*.py")):
      raise data_error(
        f"{where}: remote code refused; a dataset script is never run, name"
        " its data files"
      )
    raise data_error(f"{where}: is a folder; name its files, with commas")
  real = Path(os.path.realpath(file))
  if not file.is_absolute() and not real.is_relative_to(Path.cwd().resolve()):
    raise data_error(
      f"{where}: the link leaves the current folder, to {real}; write the"
      " absolute path if you mean it"
    )
  if file.suffix == ".py":
    raise data_error(
      f"{where}: remote code refused; a dataset script is never run"
    )
  if not file.exists():
    raise data_error(
      f"{where}: no such file; give a path to {', '.join(SUFFIXES)}, or films"
    )
  if not file.is_file() or not file.name.endswith(SUFFIXES):
    raise data_error(
      f"{where}: not a kind of file that is read ({', '.join(SUFFIXES)});"
      " convert it to JSONL"
    )
  return file


def read_rows(
  path: str, on_bad_row: str = "error", account: Account | None = None
) -> Iterator[tuple[str, dict]]:
  """Yields ("path:row", columns), rows counted from 1.

  In JSONL the row is the line number of an editor, blank lines included.

  Args:
    path: see `resolve`.
    on_bad_row: "error", or "skip": a line that is no JSON object is counted
      as read and dropped in `account` and the next one is read.
    account: needed for "skip".

  Raises:
    XpoError: with file, row and mend; a file without rows is an error too.
  """
  file = resolve(path)
  account = account or Account()
  rows = (
    _parquet_rows(path, file)
    if file.suffix == ".parquet"
    else _json_rows(path, file)
  )
  empty = True
  try:
    for row_id, row in rows:
      empty = False
      if isinstance(row, BadRow):
        if on_bad_row != "skip":
          raise data_error(f"{row_id}: {row}")
        account.read += 1
        account.dropped[row.reason] += 1
      else:
        yield row_id, row
  except OSError as e:
    raise storage_error(f"{path}: {e.strerror or e}") from e
  if empty:
    raise data_error(f"0 rows in {path}; give a file that has data")


def _json_rows(path: str, file: Path) -> Iterator[tuple[str, dict | BadRow]]:
  offset = 0
  for number, line in enumerate(_lines(path, file), 1):
    start, offset = offset, offset + len(line)
    if number == 1 and line.startswith(codecs.BOM_UTF8):
      line = line[3:]
      start += 3
    if not line.strip():
      continue
    if line.lstrip().startswith(b"["):
      raise data_error(
        f"{path}:{number}: one JSON array where JSONL is expected; write one"
        " object a line (jq -c '.[]' does it)"
      )
    yield f"{path}:{number}", _parse_line(line, start)


def _lines(path: str, file: Path) -> Iterator[bytes]:
  with open(file, "rb") as raw:
    packed = file.suffix == ".gz"
    stream = gzip.GzipFile(fileobj=raw) if packed else raw
    if packed:
      _check_declared_size(path, raw)
    read = 0
    try:
      while line := stream.readline(MAX_LINE + 1):
        read += len(line)
        if packed and _is_bomb(read, raw.tell()):
          raise data_error(
            f"{path}: unpacks to more than {MAX_RATIO} times its size, or"
            f" {MAX_INFLATED} bytes; unpack it yourself if you trust it"
          )
        if len(line) > MAX_LINE:
          raise data_error(
            f"{path}: a line is longer than {MAX_LINE} bytes; one row a line"
          )
        yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
      raise data_error(
        f"{path}: damaged gzip file ({e}); fetch it again"
      ) from e


def _check_declared_size(path: str, raw: io.BufferedReader) -> None:
  """Refuses a bomb by the size that the gzip trailer declares (mod 2**32)."""
  size = raw.seek(0, io.SEEK_END)
  if size >= 4:
    raw.seek(-4, io.SEEK_END)
    declared = int.from_bytes(raw.read(4), "little")
    if _is_bomb(declared, size):
      raise data_error(
        f"{path}: {size} bytes that declare {declared} unpacked: cut short, or"
        f" a bomb (over {MAX_RATIO} times); fetch it again, or unpack it"
        " yourself"
      )
  raw.seek(0)


def _is_bomb(inflated: int, compressed: int) -> bool:
  return (
    inflated > max(MAX_RATIO * compressed, _RATIO_FLOOR)
    or inflated > MAX_INFLATED
  )


def _parse_line(line: bytes, start: int) -> dict | BadRow:
  try:
    row = json.loads(
      line.rstrip(b"\r\n").decode("utf-8"),
      object_pairs_hook=_unique,
      parse_constant=_no_constant,
    )
  except UnicodeDecodeError as e:
    return BadRow(
      "bad_utf8",
      f"byte 0x{line[e.start]:02x} at file offset {start + e.start} is not"
      " UTF-8; convert the file",
    )
  except json.JSONDecodeError as e:
    reason = f"{e.msg.removesuffix(' at')} at column {e.colno}"
    return BadRow(
      "bad_json",
      f"not a JSON object ({reason}); mend the line or set"
      " data.on_bad_row=skip",
    )
  except RecursionError:
    return BadRow("bad_json", "JSON nested too deep; flatten the row")
  except BadRow as e:
    return e
  except ValueError as e:  # an integer of more than 4300 digits
    return BadRow("bad_json", f"{e}; mend the line")
  if not isinstance(row, dict):
    return BadRow(
      "bad_json",
      f"a {type(row).__name__}, not a JSON object; one object a line",
    )
  return _lone_surrogate(row) or row


def _unique(pairs: list[tuple[str, object]]) -> dict:
  row = dict(pairs)
  if len(row) != len(pairs):
    keys = [k for k, _ in pairs]
    twice = next(k for k in keys if keys.count(k) > 1)
    raise BadRow(
      "duplicate_key", f"key {twice!r} twice in one object; keep one"
    )
  return row


def _no_constant(name: str):
  raise BadRow("nan_literal", f"{name} is not JSON; use a number or null")


def _lone_surrogate(value: object) -> BadRow | None:
  """The first text that cannot be UTF-8 (an escape such as \\ud800 alone)."""
  if isinstance(value, str):
    try:
      value.encode("utf-8")
    except UnicodeEncodeError as e:
      return BadRow(
        "lone_surrogate",
        f"lone surrogate U+{ord(value[e.start]):04X} at character {e.start};"
        " remove it",
      )
    return None
  parts = ()
  if isinstance(value, dict):
    parts = (*value.keys(), *value.values())
  elif isinstance(value, list):
    parts = value
  return next((bad for p in parts if (bad := _lone_surrogate(p))), None)


def _parquet_rows(path: str, file: Path) -> Iterator[tuple[str, dict | BadRow]]:
  import pyarrow
  import pyarrow.parquet

  number = 0
  try:
    with pyarrow.parquet.ParquetFile(file) as table:
      names = table.schema_arrow.names
      twice = {n for n in names if names.count(n) > 1}
      if twice:
        raise data_error(f"{path}: column {min(twice)!r} twice; keep one")
      for batch in table.iter_batches(batch_size=256):
        for row in batch.to_pylist():
          number += 1
          yield f"{path}:{number}", row
  except XpoError:
    raise
  except UnicodeDecodeError as e:
    raise data_error(
      f"{path}: text after row {number} is not UTF-8; write it again"
    ) from e
  except (pyarrow.ArrowException, OSError) as e:
    reason = str(e).splitlines()[0][:200]
    raise data_error(f"{path}: not a readable Parquet file: {reason}") from e
