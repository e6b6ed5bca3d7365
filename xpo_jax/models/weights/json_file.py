"""JSON objects in files, with errors that name the file."""

import json
from pathlib import Path

from xpo_jax.errors import checkpoint_error, first_line, storage_error

MAX_BYTES = 64 * 2**20  # the largest known tokenizer.json has 34 MB


def read_json(path: Path) -> dict:
  """The JSON object in a file.

  Raises:
    XpoError: (66) not readable, not UTF-8, not JSON (NaN or a key twice in an
      object is not), too large, or not an object.
  """
  try:
    size = path.stat().st_size
    if size > MAX_BYTES:
      raise checkpoint_error(
        f"{path}: {size} bytes, at most {MAX_BYTES} are read"
      )
    value = parse(path.read_text(encoding="utf-8"))
  except OSError as e:
    raise checkpoint_error(f"{path}: {e.strerror}") from e
  except (ValueError, RecursionError) as e:
    raise checkpoint_error(
      f"{path}: not valid JSON ({first_line(e)}); copy the file again"
    ) from e
  if not isinstance(value, dict):
    raise checkpoint_error(
      f"{path}: holds a JSON {type(value).__name__}, want an object"
    )
  return value


def parse(text: str):
  """Strict JSON.

  Raises:
    ValueError: not JSON, NaN or Infinity, or a key twice in one object.
    RecursionError: nested too deep.
  """
  return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)


def _unique(pairs: list[tuple]) -> dict:
  found = dict(pairs)
  if len(found) != len(pairs):
    seen = set()
    twice = next(k for k, _ in pairs if k in seen or seen.add(k))
    raise ValueError(f"key {twice!r:.80} twice in one object")
  return found


def _refuse(word: str):
  raise ValueError(f"{word} is no JSON number")


def read_json_if_there(path: Path) -> dict:
  """`read_json`, or {} when there is no such file."""
  return read_json(path) if path.is_file() else {}


def write_json(path: Path, value: dict) -> None:
  """Writes an object, indented, in UTF-8, one trailing newline."""
  try:
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
  except OSError as e:
    raise storage_error(f"{path}: {e.strerror}") from e
