"""The layouts of rows: their columns, and which one a file has."""

from collections.abc import Callable

from xpo_jax.data import parsers
from xpo_jax.data.cells import Notes
from xpo_jax.data.records import BadRow, Group
from xpo_jax.errors import data_error, usage_error

# The first layout whose columns are all there is the one: those with more
# columns come before those with a part of them. Any of them may have `ended`
# besides, see `cells.ended`.
COLUMNS = {
  "pairs": ("prompt", "chosen", "rejected"),
  "dialogues": ("chosen", "rejected"),
  "samples": ("prompt", "samples", "rejected"),
  "scores": ("prompt", "completions", "scores"),
  "ranks": ("prompt", "completions", "ranks"),
  "win_rates": ("prompt", "completions", "win_rates"),
  "ratings": ("prompt", "completions", "ratings"),
  "steps": ("prompt", "completions", "labels"),
  "labels": ("prompt", "completion", "label"),
  "scalars": ("prompt", "completion", "score"),
  "demonstrations": ("prompt", "completion"),
  "messages": ("messages",),
  "documents": ("text",),
  "prompts": ("prompt",),
}
MAX_TEXT = 1_000_000  # characters of one row; a longer one is dropped
_TELLING = {
  "samples": "samples",
  "ranks": "ranks",
  "win_rates": "win_rates",
  "ratings": "ratings",
  "labels": "steps",
  "chosen": "dialogues",
  "rejected": "dialogues",
  "completions": "scores",
  "scores": "scores",
  "score": "scalars",
  "label": "labels",
  "completion": "demonstrations",
}
_PARSERS: dict[str, Callable[[dict, str, Notes], Group | str]] = {
  "pairs": parsers.pair,
  "dialogues": parsers.pair,
  "samples": parsers.sampled,
  "scores": parsers.scored,
  "ranks": parsers.ranked,
  "win_rates": parsers.won,
  "ratings": parsers.rated,
  "steps": parsers.stepwise,
  "labels": parsers.labelled,
  "scalars": parsers.scalar,
  "demonstrations": parsers.demonstrated,
  "messages": parsers.conversation,
  "documents": parsers.document,
  "prompts": parsers.prompted,
}


def detect(columns: set[str], first_row: dict) -> str:
  """The layout's name from the columns of the first row.

  Raises:
    XpoError: (65) a column of the nearest layout is missing, or no layout is
      near; the accepted layouts are listed.
  """
  columns = set(columns)
  for layout, wanted in COLUMNS.items():
    # A prompt beside a part of another layout is a column that was forgotten.
    part = layout == "prompts" and columns & {*_TELLING}
    if columns >= set(wanted) and not part:
      return layout
  found = ", ".join(sorted(map(str, columns))) or "none"
  for name, layout in _TELLING.items():
    missing = [c for c in COLUMNS[layout] if c not in columns]
    if name in columns and missing:
      raise data_error(
        f"no column {missing[0]!r}; columns found: {found}; layout {layout}"
        f" has {', '.join(COLUMNS[layout])}"
      )
  accepted = "; ".join(f"{k}: {', '.join(v)}" for k, v in COLUMNS.items())
  raise data_error(f"columns {found} are no known layout; accepted: {accepted}")


def parse(
  row: dict, layout: str, row_id: str, notes: Notes | None = None
) -> Group | str:
  """One row as a group, or the reason for which it is dropped.

  Args:
    row: column -> value.
    layout: a key of COLUMNS.
    row_id: "file:row".
    notes: counts what was kept but is worth knowing (tied_scores, ...).

  Raises:
    BadRow: the row is wrong (not merely useless).
    XpoError: (64) no such layout.
  """
  if layout not in COLUMNS:
    raise usage_error(
      f"data.format={layout!r}: choose auto, {', '.join(COLUMNS)}"
    )
  notes = Notes() if notes is None else notes
  wanted = COLUMNS[layout]
  for name in wanted:
    if name not in row:
      raise BadRow(
        "missing_column",
        f"no column {name!r}; columns found: {', '.join(sorted(row))}",
      )
  # A label of null is an error: it may mean "undesirable" to whoever wrote it.
  if any(row[name] is None for name in wanted if name != "label"):
    return "null"
  if sum(_size(row[name]) for name in wanted) > MAX_TEXT:
    return "too_long"
  return _PARSERS[layout](row, row_id, notes)


def _size(value: object) -> int:
  if isinstance(value, str):
    return len(value)
  if isinstance(value, dict):
    return sum(map(_size, value.values()))
  return sum(map(_size, value)) if isinstance(value, list) else 0
