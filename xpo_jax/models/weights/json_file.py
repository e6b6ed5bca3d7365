"""JSON objects in files, with errors that name the file."""

import json
from pathlib import Path

from xpo_jax.errors import checkpoint_error, storage_error


def read_json(path: Path) -> dict:
  """The JSON object in a file.

  Raises:
    XpoError: (66) not readable, not UTF-8, not JSON, or not an object.
  """
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
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


def first_line(e: BaseException) -> str:
  """The first line of an error's message, at most 200 characters."""
  return (str(e).splitlines() or [type(e).__name__])[0][:200]
