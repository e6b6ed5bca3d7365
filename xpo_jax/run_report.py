"""The report of a single training run, from what its folder holds."""

from collections.abc import Mapping, Sequence
import json
import math
import os
from pathlib import Path

from xpo_jax.errors import first_line

# Tiles: (metric, label, format), those that a run has.
HEADLINE = (
  ("eval/loss", "held-out loss", ".3f"),
  ("eval/rewards/accuracy", "held-out accuracy", ".1%"),
  ("eval/reward", "held-out reward (proxy)", "+.3f"),
  ("eval/gold", "held-out reward (gold)", "+.3f"),
  ("rewards/judge", "reward of rollouts (proxy)", "+.3f"),
  ("rewards/gold", "reward of rollouts (gold)", "+.3f"),
  ("eval/kl/k1", "held-out KL to the reference, nats", ".2f"),
  ("kl/k1", "KL to the reference, nats", ".2f"),
  ("rewards/mean", "mean reward", "+.3f"),
  ("rewards/margin", "reward margin", "+.3f"),
  ("loss", "training loss", ".3f"),
)
TILES = 4
TENTH = 0.1  # of the records: what "at the start" and "at the end" average


def write(folder: str | os.PathLike) -> Path | None:
  """Writes report.html and plots/*.png of a finished run.

  Read from the folder: config.json, metrics.jsonl, summary.json, and if there
  held_out.jsonl, rollouts/*.jsonl and evaluation.json. A run that has trained
  well does not fail because of its report: what goes wrong is one line.

  Args:
    folder: the run's.

  Returns:
    The path of report.html; None if it could not be written.
  """
  folder = Path(folder)
  try:
    from xpo_jax import report  # loads matplotlib: only when there is a need

    path = report.write_report(folder, describe(folder))
  except Exception as e:  # noqa: BLE001  the run itself is safe already
    reason = f"{type(e).__name__}: {first_line(e)}"
    print(f"warning: {folder}: no report.html ({reason})")
    return None
  print(f"report: {path}")
  return path


def describe(folder: Path) -> dict:
  """What `report.write_report` wants to know of one training run."""
  from xpo_jax import metrics, report, report_samples

  config = _json(folder / "config.json")
  summary = _json(folder / "summary.json")
  evaluation = _json(folder / "evaluation.json")
  series = metrics.read_metrics(folder)
  method = config.get("method", {}).get("name", "")
  data = config.get("data", {}).get("source", "")
  return {
    "title": f"{method or 'Run'}: {folder.absolute().name}",
    "model": config.get("model", {}).get("source", ""),
    "data": data,
    "method": method,
    "seed": config.get("seed", 0),
    "facts": _facts(config, summary),
    "headline": tiles(series),
    "notes": report.FILM_NOTES[:1] if data == "films" else (),
    "tables": [
      *evaluation.get("tables", ()),
      *_accuracy(folder),
      *numbers(series),
      *_rows(summary),
    ],
    "samples": report_samples.before_and_after(folder),
    "stages": [
      {
        "name": method or "run",
        "config": config,
        "metrics": series,
        "seconds": float(summary.get("seconds", 0.0)),
      }
    ],
  }


def tiles(series: Mapping[str, Sequence[tuple[int, float]]]) -> list[dict]:
  """The first key figures of HEADLINE that the run has."""
  found = []
  for name, label, form in HEADLINE:
    start, end = ends(series.get(name, ()))
    if math.isfinite(end):
      detail = f"{start:{form}} at the start"
      one = len(series[name]) == 1
      found.append(
        {
          "label": label,
          "value": f"{end:{form}}",
          "detail": "measured once, at the end" if one else detail,
        }
      )
  return found[:TILES]


def numbers(series: Mapping[str, Sequence[tuple[int, float]]]) -> list[dict]:
  """A table of all metrics at the start, at the end, and held out."""
  from xpo_jax.report_curves import SAME

  series = {SAME.get(name, name): pairs for name, pairs in series.items()}
  names = dict.fromkeys(name.removeprefix("eval/") for name in series)
  rows = []
  for name in sorted(n for n in names if not n.startswith("perf/")):
    held_out = series.get(f"eval/{name}", ())
    values = [*ends(series.get(name, ())), ends(held_out)[1]]
    rows.append([name, *("" if math.isnan(x) else f"{x:.4g}" for x in values)])
  table = {
    "title": "Metrics, means of the first and of the last tenth of the run",
    "columns": ["metric", "start", "end", "held out"],
    "rows": rows,
    "folded": True,
  }
  return [table] if rows else []


def ends(series: Sequence[tuple[int, float]]) -> tuple[float, float]:
  """Means of the first and of the last tenth of a series; NaN is left out.

  Of fewer than 20 records the first and the last.
  """
  values = [value for _, value in series if math.isfinite(value)]
  if not values:
    return math.nan, math.nan
  n = max(1, int(len(values) * TENTH))
  return sum(values[:n]) / n, sum(values[-n:]) / n


def _facts(config: Mapping, summary: Mapping) -> dict[str, str]:
  facts = {}
  if "steps" in summary:
    facts["Steps"] = str(summary["steps"])
  for section, key, label in (
    ("batch", "prompts", "Prompts a step"),
    ("rollout", "completions", "Completions a prompt"),
    ("optimizer", "learning_rate", "Learning rate"),
  ):
    value = config.get(section, {}).get(key)
    if value:
      facts[label] = f"{value:g}"
  for section, label in (("judge", "Judge"), ("gold", "Gold judge")):
    if name := config.get(section, {}).get("name"):
      facts[label] = name
  if summary.get("stopped"):
    facts["Ended early"] = summary["stopped"]
  return facts


def _accuracy(folder: Path) -> list[dict]:
  from xpo_jax import evaluation
  from xpo_jax.evals import compare

  found = evaluation.held_out_accuracy(folder)
  if found is None:
    return []
  return [
    {
      "title": "Held-out pairs ranked as the labels rank them",
      "columns": ["", "accuracy", "pairs"],
      "rows": [["policy", compare.estimate_text(found), str(found.n)]],
    }
  ]


def _rows(summary: Mapping) -> list[dict]:
  rows = [[str(k), f"{v:,}"] for k, v in summary.get("rows", {}).items()]
  title = "Rows of the data"
  table = {"title": title, "columns": ["", "rows"], "rows": rows}
  return [table | {"folded": True}] if rows else []


def _json(path: Path) -> dict:
  """A file's object; {} if it is absent. Others' damage is an error."""
  if not path.is_file():
    return {}
  return json.loads(path.read_text(encoding="utf-8"))
