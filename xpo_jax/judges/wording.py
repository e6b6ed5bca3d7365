"""The judges' questions: our own words, in `prompts/`, one file a question.

What is judged is put in as JSON strings, so that no text can end early and
speak to the judge in its own name.
"""

import functools
import json
from pathlib import Path
from typing import NamedTuple

from xpo_jax.data import dialogues
from xpo_jax.data.records import Message, Prompt
from xpo_jax.errors import data_error

# JSON leaves these as they are, though they end a line.
_LINE_ENDS = {n: f"\\u{n:04x}" for n in (0x85, 0x2028, 0x2029)}
FOLDER = Path(__file__).with_name("prompts")


class Principle(NamedTuple):
  """One rule of a constitution."""

  id: str
  compare: str  # asks which of two answers keeps it better
  critique: str  # asks where an answer breaks it
  revise: str  # asks for an answer that keeps it


@functools.cache
def read(name: str) -> str:
  """The text of prompts/NAME.txt, without the last line end."""
  return (FOLDER / f"{name}.txt").read_text(encoding="utf-8").rstrip("\n")


def ask(name: str, *, plain: dict[str, str] | None = None, **texts: Prompt):
  """A question as one user turn.

  Args:
    name: of the file.
    plain: fields that are our own words and stay as they are.
    **texts: fields that hold what is judged; they are quoted as JSON.
  """
  quoted = {field: quote(text) for field, text in texts.items()}
  content = read(name).format(**quoted, **(plain or {}))
  return (Message("user", content),)


def quote(text: Prompt) -> str:
  """A text, or a conversation as one text, as a JSON string on one line."""
  whole = dialogues.as_text(text, cue=False).strip()
  return json.dumps(whole, ensure_ascii=False).translate(_LINE_ENDS)


def principles(path: str | Path = FOLDER / "principles.json"):
  """The principles of a file: a JSON list of {id, compare, critique, revise}.

  Returns:
    a tuple of Principle.

  Raises:
    XpoError: (65) not such a list, or an id twice.
  """
  try:
    rows = json.loads(Path(path).read_text(encoding="utf-8"))
  except (OSError, ValueError) as e:
    raise data_error(f"principles {path}: {e}") from e
  wanted = set(Principle._fields)
  for n, row in enumerate(rows if isinstance(rows, list) else [None], 1):
    good = isinstance(row, dict) and set(row) == wanted
    if not good or not all(isinstance(v, str) and v for v in row.values()):
      raise data_error(
        f"{path}:{n}: want an object with the texts {sorted(wanted)}"
      )
  found = tuple(Principle(**row) for row in rows)
  if not found or len({p.id for p in found}) < len(found):
    raise data_error(f"{path}: no principles, or an id twice")
  return found
