"""Metrics of a run: JSON lines always, TensorBoard events beside them.

`metrics.jsonl` holds one object a line: {"step": 3, "loss": 0.69, ...}. It is
the truth that reports read; the event files are for TensorBoard only.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import json
import math
import os
import pathlib

from xpo_jax.errors import storage_error

FILE = "metrics.jsonl"
EVENTS = "tensorboard"


@dataclasses.dataclass(frozen=True)
class Writer:
  """What a loop needs to record its numbers.

  Attributes:
    write: (step, {name: value}) -> None. Values are anything float() takes;
      NaN and infinities are written as null, and left out of the events.
    close: () -> None. Flushes and closes both files; writing then fails.
  """

  write: Callable[[int, Mapping[str, float]], None]
  close: Callable[[], None]


def make_writer(
  folder: str | os.PathLike, resume_step: int | None = None
) -> Writer:
  """Opens the metrics of `folder` for appending; one process a folder.

  Args:
    folder: made if missing; gets `metrics.jsonl` and `tensorboard/`.
    resume_step: the first step that will be written again. Older records of
      this step and later ones are cut first (`truncate`), and TensorBoard is
      told to hide them. None: only a torn line is cut.

  Raises:
    XpoError: the folder cannot be written.
  """
  # Importing tensorboardX loads protobuf: readers of metrics need not wait.
  from tensorboardX import SummaryWriter

  path = pathlib.Path(folder) / FILE
  truncate(folder, math.inf if resume_step is None else resume_step)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.open("a", encoding="utf-8")
    events = SummaryWriter(
      str(path.parent / EVENTS), purge_step=resume_step, flush_secs=10
    )
  except OSError as error:
    raise _cannot_write(path, error) from error

  def write(step: int, values: Mapping[str, float]) -> None:
    record = {name: _finite_or_none(value) for name, value in values.items()}
    try:
      lines.write(json.dumps({"step": int(step)} | record) + "\n")
      lines.flush()
      for name, value in record.items():
        if value is not None:
          events.add_scalar(name, value, int(step))
    except OSError as error:
      raise _cannot_write(path, error) from error

  def close() -> None:
    lines.close()
    events.close()

  return Writer(write, close)


def truncate(folder: str | os.PathLike, step: float) -> int:
  """Cuts records with step >= `step`, and a line that a kill left torn.

  The file is replaced in one move, so a kill here loses nothing.

  Returns:
    How many lines were cut; 0 if there is no file.

  Raises:
    XpoError: the folder cannot be written.
  """
  path = pathlib.Path(folder) / FILE
  if not path.exists():
    return 0
  kept = [record for record in _records(path) if record["step"] < step]
  total = sum(1 for line in _lines(path) if line.strip())
  if len(kept) == total:
    return 0
  fresh = path.with_suffix(".new")
  try:
    with fresh.open("w", encoding="utf-8") as file:
      file.writelines(json.dumps(record) + "\n" for record in kept)
      file.flush()
      os.fsync(file.fileno())
    os.replace(fresh, path)
  except OSError as error:
    raise _cannot_write(path, error) from error
  return total - len(kept)


def read_metrics(
  folder: str | os.PathLike,
) -> dict[str, list[tuple[int, float]]]:
  """{name: [(step, value), ...]} in the order written; null reads as NaN.

  A folder without metrics gives {}. A torn last line is ignored.
  """
  path = pathlib.Path(folder) / FILE
  series: dict[str, list[tuple[int, float]]] = {}
  if not path.exists():
    return series
  for record in _records(path):
    step = record.pop("step")
    for name, value in record.items():
      number = math.nan if value is None else float(value)
      series.setdefault(name, []).append((step, number))
  return series


def _lines(path: pathlib.Path) -> list[str]:
  return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _records(path: pathlib.Path) -> Iterator[dict]:
  for line in _lines(path):
    try:
      record = json.loads(line)
    except ValueError:
      continue
    if isinstance(record, dict) and isinstance(record.get("step"), int):
      yield record


def _finite_or_none(value: float) -> float | None:
  number = float(value)
  return number if math.isfinite(number) else None


def _cannot_write(path: pathlib.Path, error: OSError) -> Exception:
  return storage_error(
    f"{path}: cannot write metrics ({error.strerror}); free some space or "
    "choose another --workdir"
  )
