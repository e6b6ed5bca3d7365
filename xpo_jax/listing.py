"""The tables of `xpo methods`, read from the registry."""

import dataclasses

from rich.console import Console
from rich.table import Table
from rich.text import Text

from xpo_jax import methods

Rows = list[dict[str, str]]


def method_rows() -> Rows:
  """One row a method: id, paper, data, needs, keywords with defaults."""
  return [_row(methods.get(name)) for name in methods.names()]


def survey_rows() -> Rows:
  """One row a method: its place on the 13 axes of the survey."""
  return [
    {"id": name}
    | {
      axis: str(value)
      for axis, value in dataclasses.asdict(methods.get(name).survey).items()
    }
    for name in methods.names()
  ]


def as_markdown(rows: Rows) -> str:
  """A pipe table; empty cells become a dash."""
  heads = list(rows[0])
  lines = [heads, ["---"] * len(heads), *([r[h] for h in heads] for r in rows)]
  return "\n".join(
    "| " + " | ".join(cell or "-" for cell in line) + " |" for line in lines
  )


def document() -> str:
  """docs/methods.md: what every method takes, and its place in the survey."""
  return (
    "# Methods\n\nMade by `xpo methods --markdown > docs/methods.md`. Needs "
    "and defaults are those of the loss; papers are arXiv numbers.\n\n"
    f"{as_markdown(method_rows())}\n\n## The survey's 13 axes\n\n"
    f"{as_markdown(survey_rows())}\n"
  )


def show(rows: Rows) -> None:
  """Prints the rows as a terminal table."""
  console = Console()
  table = Table(show_lines=True)
  for head in rows[0]:
    table.add_column(head.replace("_", " "), no_wrap=True)
  for row in rows:
    cells = (cell.replace(", ", "\n") or "-" for cell in row.values())
    table.add_row(*map(Text, cells))
  # Never squeezed below its words: pipe a wide one into `less -S`.
  wide = Console(width=10_000).measure(table).maximum
  Console(width=max(console.width, wide)).print(table)


def _row(method: methods.Method) -> dict[str, str]:
  low, high = method.completions
  span = f"K = {low}" if low == high else f"K = {low} to {high or 'any'}"
  kinds = ", ".join(sorted(kind.value for kind in method.feedback))
  return {
    "id": method.id,
    "paper": method.paper.removeprefix("https://arxiv.org/abs/"),
    "data": f"{span}; {kinds}",
    "needs": ", ".join(sorted(method.needs({}))),
    "keywords": ", ".join(f"{k}={v}" for k, v in method.keywords.items()),
  }
