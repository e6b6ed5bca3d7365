"""What a person sees while waiting: progress with ETA, tables, checks.

On a terminal a live bar; elsewhere (CI, `make > log`) one plain line every ten
seconds, so that a log stays readable.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import os
import time
from typing import Any

from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
  TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

LINE_SECONDS = 10.0
LOG_WIDTH = 110


@dataclasses.dataclass
class Task:
  """A running loop: iterate over it, or call `advance` once an item.

  Iterating advances by itself; `update` sets the numbers shown beside the bar.
  """

  work: Iterable[Any]
  total: int | None
  fields: Mapping[str, str]
  clock: Callable[[], float]
  show: Callable[["Task"], None]
  done: int = 0
  values: dict[str, float] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    self.began = self.clock()
    self.marks = [(self.began, self.done)]

  def update(self, values: Mapping[str, float]) -> None:
    """Host numbers by metric name; those outside `fields` are ignored."""
    self.values.update({k: values[k] for k in self.fields if k in values})

  def advance(
    self, values: Mapping[str, float] | None = None, n: int = 1
  ) -> None:
    """Marks `n` more items as done."""
    self.update(values or {})
    self.done += n
    # Keep the start, the end of the first item (compilation) and now.
    self.marks = self.marks[:2] + [(self.clock(), self.done)]
    self.show(self)

  def __iter__(self) -> Iterator[Any]:
    for item in self.work:
      yield item
      self.advance()


def track(
  work: int | Iterable[Any],
  description: str,
  fields: Mapping[str, str] | None = None,
  *,
  initial: int = 0,
  console: Console | None = None,
  clock: Callable[[], float] = time.monotonic,
) -> contextlib.AbstractContextManager[Task]:
  """Shows a loop's progress and ETA while the context lasts.

    with track(batches, "DPO", {"loss": ".3f", "rewards/margin": "+.2f"}) as t:
      for batch in t:
        t.update(step(batch))

  The ETA leaves the first item out as soon as three are done: it carries the
  compilation.

  Args:
    work: what to iterate over, or the number of items (then the task iterates
      over range(initial, work), or is advanced by hand).
    description: a word or two.
    fields: metric name -> format of the numbers shown; the part of the name
      after the last "/" is its label.
    initial: items done before, after a resume (counted, not timed).
    console: where to; standard output.
    clock: seconds, monotonic.
  """
  total = work if isinstance(work, int) else _length(work)
  if isinstance(work, int):
    work = range(initial, work)
  elif total is not None:
    total += initial
  console = console or make_console()
  live = console.is_interactive and console.file.isatty()
  render = _bar if live else _lines
  task = Task(work, total, fields or {}, clock, lambda task: None, initial)
  return render(task, plain(description, console), console)


def tracked(description: str) -> Callable[[Iterable, int], Iterator]:
  """A wrapper (work, total) -> the same items, shown while they are used."""

  def wrap(work, total):
    with track(total, description) as task:
      for item in work:
        yield item
        task.advance()

  return wrap


@contextlib.contextmanager
def _bar(task: Task, description: str, console: Console) -> Iterator[Task]:
  columns = (
    TextColumn("{task.description}", markup=False),
    BarColumn(bar_width=None),
    MofNCompleteColumn(),
    TextColumn("{task.fields[numbers]}", style="cyan", markup=False),
    TimeElapsedColumn(),
    TextColumn("ETA {task.fields[eta]}", style="magenta", markup=False),
  )
  with Progress(*columns, console=console, expand=True) as progress:
    bar = progress.add_task(
      description,
      total=task.total,
      completed=task.done,
      numbers="",
      eta=clock_text(None),
    )

    def show(task: Task) -> None:
      progress.update(
        bar,
        completed=task.done,
        numbers=_numbers(task),
        eta=clock_text(remaining(task.marks, task.total)),
      )

    task.show = show
    yield task


@contextlib.contextmanager
def _lines(task: Task, description: str, console: Console) -> Iterator[Task]:
  last = task.began

  def say(ending: str) -> None:
    parts = [description, _count(task), _numbers(task)]
    parts.append(clock_text(task.clock() - task.began) + " elapsed")
    line = "  ".join(part for part in parts + [ending] if part)
    console.print(Text(line), soft_wrap=True)

  def show(task: Task) -> None:
    nonlocal last
    if task.clock() - last >= LINE_SECONDS and task.done != task.total:
      last = task.clock()
      say("ETA " + clock_text(remaining(task.marks, task.total)))

  task.show = show
  try:
    yield task
  except BaseException:
    say("stopped")
    raise
  say("done")


def remaining(
  marks: Sequence[tuple[float, int]], total: int | None
) -> float | None:
  """Seconds left; None while unknown.

  Args:
    marks: (second, items done) at the start, after the first item, and now.
    total: items in all.
  """
  if total is None or len(marks) < 2:
    return None
  second, done = marks[-1]
  first_second, first_done = marks[0]
  if len(marks) == 3 and done - marks[0][1] >= 3 and done > marks[1][1]:
    first_second, first_done = marks[1]
  return (second - first_second) / (done - first_done) * max(0, total - done)


def clock_text(seconds: float | None) -> str:
  """75 -> "1:15", 3700 -> "1:01:40", None -> "-:--"."""
  if seconds is None:
    return "-:--"
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  start = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
  return f"{start}:{rest:02d}"


def print_table(
  title: str,
  columns: Sequence[str],
  rows: Iterable[Sequence[object]],
  *,
  console: Console | None = None,
) -> None:
  """Prints a table: the first column to the left, the others to the right."""
  console = console or make_console()
  table = Table(title=Text(plain(title, console)), title_justify="left")
  for number, column in enumerate(columns):
    table.add_column(
      Text(plain(column, console)),
      justify="right" if number else "left",
      overflow="fold",  # a name or number that is cut off may be another one
    )
  for row in rows:
    table.add_row(*(Text(plain(str(cell), console)) for cell in row))
  console.print(table)


def print_checks(
  rows: Iterable[tuple[str, object, object, bool]],
  *,
  console: Console | None = None,
) -> None:
  """Prints (name, value, expected, ok) rows with a tick or a cross."""
  console = console or make_console()
  table = Table(title=Text("Checks before step 1"), title_justify="left")
  for column in ("", "check", "value", "expected"):
    table.add_column(column)
  tick, cross = ("✓", "✗") if _writes(console, "✓✗") else ("ok", "NO")
  for name, value, expected, ok in rows:
    mark = Text(tick, "green") if ok else Text(cross, "bold red")
    cells = (Text(plain(_short(x), console)) for x in (name, value, expected))
    table.add_row(mark, *cells)
  console.print(table)


def make_console() -> Console:
  """Standard output; a log gets a fixed width unless COLUMNS says otherwise."""
  console = Console(highlight=False)
  if not console.is_terminal and "COLUMNS" not in os.environ:
    console = Console(highlight=False, width=LOG_WIDTH)
  return console


def plain(text: str, console: Console) -> str:
  """`text` without control characters and what the console cannot encode.

  Generated text may hold escape sequences that would drive the terminal.
  """
  encoding = console.encoding
  text = "".join(c if c.isprintable() or c == "\n" else " " for c in text)
  return text.encode(encoding, "replace").decode(encoding)


def _writes(console: Console, text: str) -> bool:
  return plain(text, console) == text


def _short(value: object) -> str:
  return f"{value:.6g}" if isinstance(value, float) else str(value)


def _length(work: Iterable[Any]) -> int | None:
  try:
    return len(work)  # type: ignore[arg-type]
  except TypeError:
    return None


def _count(task: Task) -> str:
  if task.total is None:
    return str(task.done)
  share = task.done / task.total if task.total else 1.0
  return f"{task.done}/{task.total} {share:.0%}"


def _numbers(task: Task) -> str:
  shown = (
    f"{name.rsplit('/', 1)[-1]} {float(task.values[name]):{form}}"
    for name, form in task.fields.items()
    if name in task.values
  )
  return "  ".join(shown)
