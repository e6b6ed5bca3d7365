"""Samples and rewards of a rollout on the terminal, while a run goes on.

A group of lines that scrolls above the progress bar; the same without a
terminal. Texts of models are stripped of control characters and cut.
"""

from collections.abc import Mapping, Sequence
import json
import math
from pathlib import Path

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from xpo_jax import progress

WIDTH = 110  # columns, at most
LINES = 3  # of a text on a terminal; one in a log
BETTER, WORSE = "green", "dark_orange"


def view(
  number: int,
  rows: Sequence[Mapping],
  every: int,
  *,
  console: Console | None = None,
) -> bool:
  """Shows one prompt of a rollout if its turn has come.

  Args:
    number: of the rollout, from 0.
    rows: {"prompt", "completions", "scores", "ended"} each, as in
      rollouts/NNNNNN.jsonl; another one is shown every time.
    every: rollouts from one view to the next; 0 shows none.
    console: standard output if None.

  Returns:
    Whether it was shown.
  """
  if not every or number % every or not rows:
    return False
  row = rows[number // every % len(rows)]
  show(
    number,
    row["prompt"],
    row["completions"],
    row["scores"],
    summary=summary(rows),
    console=console,
  )
  return True


def view_file(
  number: int, path: Path, every: int, *, console: Console | None = None
) -> bool:
  """`view` of rollouts/NNNNNN.jsonl, which is read only in its turn."""
  if not every or number % every:
    return False
  lines = path.read_text(encoding="utf-8").splitlines()
  return view(number, [*map(json.loads, lines)], every, console=console)


def show(
  step: int,
  prompt: str,
  completions: Sequence[str],
  scores: Sequence[float | None],
  *,
  summary: str = "",
  console: Console | None = None,
) -> None:
  """Prints a prompt with its best and its worst completion.

  Args:
    step: of the rollout or of the training.
    prompt: plain text.
    completions: [K] texts, K >= 1.
    scores: [K]; None or NaN: unscorable, never the best nor the worst if
      another one has a score.
    summary: what to say beside the step; the mean of `scores` if "".
    console: standard output if None.
  """
  console = console or progress.make_console()
  head = Text.assemble(
    (f"rollout {step}", "bold"),
    "  " + (summary or _mean_text(_numbers(scores))),
  )
  console.print(head, soft_wrap=True)
  width = min(WIDTH, console.width)
  grid = Table.grid(padding=(0, 1), expand=False)
  lines = LINES if console.is_terminal else 1
  # Indent, three narrow columns and the gaps between them.
  room = max(10, width - 2 - 6 - 7 - 9 - 3)
  grid.add_column(width=6)
  grid.add_column(width=7, justify="right")
  grid.add_column(width=9, justify="right")
  grid.add_column(width=room)
  tidy = lambda text: _cut(progress.plain(text, console), room * lines)
  grid.add_row(Text("prompt", "dim"), "", "", Text(tidy(prompt), "cyan"))
  for label, k, style in _picked(_numbers(scores)):
    text = completions[k]
    grid.add_row(
      Text(label, "dim"),
      Text(_score_text(_numbers(scores)[k]), style),
      Text(_words(text), "dim"),
      Text(tidy(text)),
    )
  console.print(Padding(grid, (0, 0, 0, 2), expand=False))


def summary(rows: Sequence[Mapping]) -> str:
  """Mean and range of a rollout's scores, its words and ends, in one line."""
  scores = _numbers(s for row in rows for s in row["scores"])
  lengths = [len(text.split()) for row in rows for text in row["completions"]]
  ended = [bool(e) for row in rows for e in row.get("ended", ())]
  parts = [_mean_text(scores)]
  if lengths:
    parts.append(f"{sum(lengths) / len(lengths):.0f} words")
  if ended:
    parts.append(f"{sum(ended) / len(ended):.0%} ended")
  return "  ".join(parts)


def _mean_text(scores: Sequence[float]) -> str:
  valid = [s for s in scores if math.isfinite(s)]
  if not valid:
    return "no scores"
  mean = sum(valid) / len(valid)
  text = f"mean score {mean:+.3f} ({min(valid):+.3f} to {max(valid):+.3f})"
  missing = len(scores) - len(valid)
  return text + (f"  {missing} unscorable" if missing else "")


def _picked(scores: Sequence[float]) -> list[tuple[str, int, str]]:
  """(label, index, style) of the completions to show."""
  valid = [k for k, s in enumerate(scores) if math.isfinite(s)]
  if not valid:
    return [("sample", 0, "default")]
  best = max(valid, key=lambda k: scores[k])
  worst = min(valid, key=lambda k: scores[k])
  if scores[best] == scores[worst]:
    return [("sample", best, "default")]
  return [("best", best, BETTER), ("worst", worst, WORSE)]


def _numbers(scores) -> list[float]:
  return [math.nan if s is None else float(s) for s in scores]


def _score_text(score: float) -> str:
  return f"{score:+.3f}" if math.isfinite(score) else "n/a"


def _words(text: str) -> str:
  count = len(text.split())
  return "1 word" if count == 1 else f"{count} words"


def _cut(text: str, size: int) -> str:
  """`text` on one line, at most `size` columns wide."""
  text = " ".join(text.split()) or "(empty)"
  if cell_len(text) <= size:
    return text
  return chop_cells(text, size - 3)[0].rstrip() + "..."
