"""The same prompts before and after training, for the report.

From the rollouts of an online run (`rollouts/NNNNNN.jsonl`, a line a prompt:
prompt, completions, scores, ended), else from its evaluation.
"""

from collections.abc import Iterator, Mapping, Sequence
import json
import math
from pathlib import Path

FOLDER = "rollouts"
PROMPTS = 12  # shown
REPLIES = 3  # of a prompt, in the order sampled
FILES = 64  # read from either end of a run


def before_and_after(run: Path) -> list[dict]:
  """Samples for `report.write_report`; [] if the run left none.

  A prompt is paired between the earliest and the latest rollouts that hold it.
  If no prompt came twice, the last rollout is shown alone.
  """
  files = sorted((run / FOLDER).glob("*.jsonl"))
  files = [path for path in files if path.stem.isdigit()]
  pairs = _pairs(files)
  if pairs:
    shown = [
      {f"before, rollout {a}": old, f"after, rollout {b}": new}
      for (a, old), (b, new) in pairs
    ]
  elif stored := evaluated(run):
    return stored
  else:
    number, rows = _number(files[-1:]), [*_rows(files[-1:])]
    shown = [{f"rollout {number}": row} for row in rows[:PROMPTS]]
  limits = span(row for versions in shown for row in versions.values())
  return [_sample(versions, limits) for versions in shown]


def span(rows: Iterator[Mapping]) -> tuple[float, float]:
  """(lowest, highest) finite score of rows; (0, 0) without any."""
  found = [x for row in rows for x in row["scores"] if math.isfinite(x)]
  return (min(found), max(found)) if found else (0.0, 0.0)


def evaluated(run: Path) -> list[dict]:
  """The samples that an evaluation left in the folder, if it did."""
  try:
    found = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    return found["samples"][:PROMPTS]
  except (OSError, ValueError, LookupError, TypeError):
    return []


def _pairs(files: Sequence[Path]) -> list[tuple]:
  """[((number, row), (number, row))] of up to PROMPTS prompts that came twice.

  Walks inwards from both ends, a file of each at a time.
  """
  early: dict[str, tuple] = {}
  late: dict[str, tuple] = {}
  for depth in range(min(FILES, len(files) // 2)):
    first, last = files[depth], files[-1 - depth]
    for found, path in ((early, first), (late, last)):
      for row in _rows([path]):
        found.setdefault(row["prompt"], (_number([path]), row))
    if sum(prompt in late for prompt in early) >= PROMPTS:
      break
  both = [prompt for prompt in early if prompt in late]
  return [(early[prompt], late[prompt]) for prompt in both[:PROMPTS]]


def _rows(files: Sequence[Path]) -> Iterator[dict]:
  """The whole rows of rollout files; a score of null reads as NaN."""
  for path in files:
    for line in path.read_text(encoding="utf-8").splitlines():
      try:
        row = json.loads(line)
        scores = [math.nan if x is None else float(x) for x in row["scores"]]
        texts = [str(text) for text in row["completions"]]
        prompt = str(row["prompt"])
      except (ValueError, LookupError, TypeError):
        continue
      if texts and len(texts) == len(scores):
        yield {"prompt": prompt, "completions": texts, "scores": scores}


def _number(files: Sequence[Path]) -> str:
  return files[0].stem.lstrip("0") or "0" if files else ""


def _sample(versions: Mapping[str, Mapping], limits) -> dict:
  (prompt, *_) = [row["prompt"] for row in versions.values()]
  cut = lambda row, key: row[key][:REPLIES]
  return {
    "prompt": prompt,
    "range": limits,
    "texts": {k: cut(row, "completions") for k, row in versions.items()},
    "scores": {
      k: [{"score": x} for x in cut(row, "scores")]
      for k, row in versions.items()
    },
  }
