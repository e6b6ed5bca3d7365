"""Recipes side by side: what a method reached, how far it went, what it cost.

A row is a dict with the key `recipe` and any of the keys of COLUMNS: a number,
or (value, low, high) with its 95% interval; what is missing or not finite stays
empty. A row with `start` is where the others began and comes first. Pure
functions, but for `write` and `show`.
"""

import base64
from collections.abc import Mapping, Sequence
import dataclasses
import math
import os
from pathlib import Path

import jinja2
from rich.console import Console

from xpo_jax import progress
from xpo_jax.errors import storage_error

Row = Mapping[str, object]


@dataclasses.dataclass(frozen=True)
class Column:
  key: str
  title: str
  unit: str
  form: str
  short: str  # title on a terminal


COLUMNS = (
  Column("gold", "gold reward", "mean score", "+.3f", "gold"),
  Column("change", "gold - SFT", "95% interval", "+.2f", "gold - SFT [95%]"),
  Column("reward", "reward model", "mean score", "+.3f", "reward"),
  Column("accuracy", "accuracy", "share of held-out pairs", ".3f", "acc."),
  Column("kl", "KL to SFT", "nats / completion", ".2f", "KL"),
  Column("length", "length", "words / completion", ".1f", "words"),
  Column("distinct_n", "distinct-2", "share of n-grams", ".3f", "dist-2"),
  Column("repetition", "repetition", "share of n-grams", ".3f", "rep."),
  Column("minutes", "time", "min", ".1f", "min"),
)

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ table.title }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<main>
<h1>{{ table.title }}</h1>
{%- for note in notes %}
<p class="soft">{{ note }}</p>
{%- endfor %}
<div class="wide"><table>
<thead><tr>
{%- for column in table.columns %}<th>{{ column }}</th>{% endfor -%}
</tr></thead>
<tbody>
{%- for row in table.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{%- endfor %}
</tbody></table></div>
<img alt="The same numbers as bars" src="data:image/png;base64,{{ image }}">
</main>
</body>
</html>
"""


def ordered(rows: Sequence[Row], by: str = "gold") -> list[Row]:
  """The start, then from the highest `by` to the lowest, those without last."""

  def key(row):
    value = _number(row, by)
    missing = math.isnan(value)
    place = 0.0 if missing else -value
    return not row.get("start"), missing, place, str(row["recipe"])

  return sorted(rows, key=key)


def table(
  rows: Sequence[Row], title: str = "Recipes", by: str = "gold"
) -> dict:
  """{"title", "columns", "rows"} of texts, for the report and the terminal.

  Columns that no row has are left out.
  """
  columns = _present(rows)
  return {
    "title": title,
    "columns": ["recipe", *(f"{c.title} ({c.unit})" for c in columns)],
    "rows": [
      [str(row["recipe"]), *(_text(row, c) for c in columns)]
      for row in ordered(rows, by)
    ],
  }


def markdown(rows: Sequence[Row], by: str = "gold") -> str:
  """The table as Markdown, numbers to the right."""
  found = table(rows, by=by)
  escape = lambda cell: cell.replace("\\", "\\\\").replace("|", "\\|")
  rule = ["---", *("---:" for _ in found["columns"][1:])]
  body = [found["columns"], rule, *found["rows"]]
  return "".join(f"| {' | '.join(map(escape, line))} |\n" for line in body)


def show(
  rows: Sequence[Row],
  title: str = "Recipes",
  by: str = "gold",
  *,
  console: Console | None = None,
) -> None:
  """Prints the table, one below the other where a terminal is too narrow."""
  console = console or progress.make_console()
  titles = ["recipe", *(column.short for column in _present(rows))]
  lines = [titles, *table(rows, title, by)["rows"]]
  for part in _fitting(list(zip(*lines)), console.width):
    head, *body = zip(*part)
    progress.print_table(title, head, body, console=console)


def _fitting(columns, width: int) -> list[list]:
  """The columns after the first in groups that fit beside it, in order."""
  wide = lambda column: max(map(len, column)) + 3  # a rule and two blanks
  first, *others = columns
  groups, room = [[first]], width - 1 - wide(first)
  for column in others:
    if room < wide(column) and len(groups[-1]) > 1:
      groups.append([first])
      room = width - 1 - wide(first)
    groups[-1].append(column)
    room -= wide(column)
  return groups


def draw(rows: Sequence[Row], by: str = "gold") -> bytes:
  """PNG: a small bar chart for every column, recipes in the table's order.

  Args:
    rows: at least one, with at least one number.
  """
  from xpo_jax import report_axes as paper  # loads matplotlib

  rows, columns = ordered(rows, by), _present(rows)
  across = min(5, len(columns))
  down = math.ceil(len(columns) / across)
  size = (2.9 * across + 1.0, (0.7 + 0.24 * len(rows)) * down)
  figure, axes = paper.new_figure(down, across, size)
  for number, (place, column) in enumerate(zip(axes, columns)):
    values = [_number(row, column.key) for row in rows]
    places = range(len(rows))
    place.barh(places, [0.0 if math.isnan(v) else v for v in values],
               0.7, color=paper.COLOURS[0])  # fmt: skip
    _whiskers(place, [_interval(row, column.key) for row in rows], paper.INK)
    names = [paper.literal(str(row["recipe"])) for row in rows]
    place.set_yticks(
      places, names if number % across == 0 else [""] * len(rows)
    )
    place.set_ylim(len(rows) - 0.5, -0.5)
    low, high = place.get_xlim()
    room = 0.22 * (high - low)  # for the numbers beside the bars
    place.set_xlim(low - room if low < 0 else 0.0, high + room)
    for row, value in enumerate(values):
      left, ends = value < 0, _interval(rows[row], column.key)[1:]
      end = min(value, *ends) if left else max(value, *ends)
      shown = "n/a" if math.isnan(value) else f"{value:{column.form}}"
      place.text(0.0 if math.isnan(value) else end, row,
                 f" {shown} ", va="center",
                 ha="right" if left else "left", fontsize=7,
                 color=paper.INK)  # fmt: skip
    paper.style(place, column.title, column.unit, "")
    place.grid(axis="y", visible=False)
    place.locator_params(axis="x", nbins=4)
  for place in axes[len(columns) :]:
    place.set_visible(False)
  return paper.png(figure)


def _whiskers(place, intervals: Sequence[Sequence[float]], ink: str) -> None:
  for row, (_, low, high) in enumerate(intervals):
    if not (math.isnan(low) or math.isnan(high)):
      place.plot([low, high], [row, row], color=ink, linewidth=0.8)


def html(
  rows: Sequence[Row],
  image: bytes,
  title: str = "Recipes",
  notes: Sequence[str] = (),
  by: str = "gold",
) -> str:
  """A page of its own: the table and `draw`'s PNG; texts are escaped."""
  from xpo_jax.report_page import REPORT_STYLE, STYLE

  environment = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined
  )
  return environment.from_string(PAGE).render(
    table=table(rows, title, by),
    notes=notes,
    style=STYLE + REPORT_STYLE,
    image=base64.b64encode(image).decode(),
  )


def write(
  folder: str | os.PathLike,
  rows: Sequence[Row],
  title: str = "Recipes",
  notes: Sequence[str] = (),
  by: str = "gold",
) -> Path:
  """Writes recipes.md, recipes.png and recipes.html; returns the latter.

  Raises:
    XpoError: the folder cannot be written.
  """
  folder, image = Path(folder), draw(rows, by)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipes.md").write_text(markdown(rows, by), encoding="utf-8")
    (folder / "recipes.png").write_bytes(image)
    path = folder / "recipes.html"
    path.write_text(html(rows, image, title, notes, by), encoding="utf-8")
  except OSError as error:
    raise storage_error(
      f"{folder}: cannot write the table of recipes ({error.strerror}); free "
      "some space or choose another folder"
    ) from error
  return path


def _present(rows: Sequence[Row]) -> list[Column]:
  known = lambda c: any(not math.isnan(_number(r, c.key)) for r in rows)
  return [column for column in COLUMNS if known(column)]


def _number(row: Row, key: str) -> float:
  return _interval(row, key)[0]


def _interval(row: Row, key: str) -> list[float]:
  """[value, low, high]; NaN where there is none."""
  found = row.get(key)
  parts = found if isinstance(found, Sequence) else [found]
  numbers = [math.nan if x is None else float(x) for x in parts]
  numbers = [x if math.isfinite(x) else math.nan for x in numbers]
  return numbers + [math.nan] * (3 - len(numbers))


def _text(row: Row, column: Column) -> str:
  value, low, high = _interval(row, column.key)
  if math.isnan(value):
    return ""
  shown, form = f"{value:{column.form}}", column.form
  if math.isnan(low) or math.isnan(high):
    return shown
  return f"{shown} [{low:{form}}, {high:{form}}]"
