"""A run is a list of stages, each a folder with a manifest.

A finished stage is skipped, a killed one resumes, a changed config is refused.
The kind of a stage is told by a key of its config, see KINDS. "stage:NAME" in
any value means the folder of that stage, "stage:NAME/PATH" what is in it, and
"stage:NAME@STEP" one of its checkpoints.
"""

from collections.abc import Sequence
import hashlib
import json
import os
from pathlib import Path
import re
import time

import jax
from ml_collections import ConfigDict
import numpy as np

from xpo_jax import (
  checkpoint,
  config,
  evaluation,
  held_out,
  hosts,
  metrics,
  progress,
  report,
  stopping,
  train,
)
from xpo_jax.errors import checkpoint_error, usage_error
from xpo_jax.evals import compare
from xpo_jax.stages import generate, judge_examples, merge, propose, revise

PREFIX = "stage:"
MANIFEST = "manifest.json"
_PLACE = re.compile(r"stage:([^/@]*)([/@]?)(.*)", re.DOTALL)
# A key that only this kind of stage has -> the module that runs it, with
# run(settings, folder) -> summary and, but for training, check(settings, where)
KINDS = {
  "method": train,
  "select": generate,
  "revisions": revise,
  "rated": judge_examples,
  "shots": propose,
  "operator": merge,
  "policies": evaluation,
}


def run(
  settings: ConfigDict, workdir: str | os.PathLike, reuse: Sequence[str] = ()
) -> dict:
  """Runs the stages in `settings.order`, then writes report.html.

  Args:
    settings: order (names), stages {name: config}, title, model, data, notes,
      and optionally a seed for all stages.
    workdir: gets one folder a stage and the report.
    reuse: folders of other runs; a finished stage of the same name and config,
      with the same stages before it, is linked from there.

  Returns:
    {stage: its summary}.

  Raises:
    XpoError: a stage's config is wrong (before anything starts), or a folder
      holds a stage of another config.
  """
  workdir = Path(workdir).absolute()
  _check_keys(settings)
  settings = spread(settings)
  stages = resolve(settings, workdir)
  for name, stage in stages.items():
    check(name, stage)
  digests = _digests(settings)
  done = {}
  with stopping.at_once(), checkpoint.locked(workdir):
    for name in stages:
      hosts.first(lambda: _link(workdir / name, digests[name], reuse))
      hosts.first(lambda: _refuse_change(workdir / name, digests[name]))
    for number, (name, stage) in enumerate(stages.items(), 1):
      title = f"stage {number} of {len(stages)}: {name}"
      done[name] = _stage(title, stage, workdir / name, digests[name])
    if jax.process_index() == 0:
      path = _report(settings, stages, done, workdir)
      _show(done)
      print(f"report: {path}")
  return done


def check(name: str, stage: ConfigDict) -> None:
  """What can be wrong with a stage before anything starts.

  Raises:
    XpoError: no known kind of stage, or a wrong config of its kind.
  """
  module = kind(name, stage)
  if module is train:
    config.validate(stage)
  else:
    module.check(stage, f"stages.{name}")


def kind(name: str, stage: ConfigDict):
  """The module of KINDS that runs a stage.

  Raises:
    XpoError: none of the keys is there.
  """
  for key, module in KINDS.items():
    if key in stage:
      return module
  raise usage_error(
    f"stages.{name} has none of the keys that tell kinds of stages apart: "
    f"{', '.join(KINDS)}"
  )


def _check_keys(settings: ConfigDict) -> None:
  for key in ("order", "stages", "title", "model", "data", "notes"):
    if key not in settings:
      raise usage_error(
        f"this config has no {key!r}; see configs/quickstart.py"
      )


def spread(settings: ConfigDict) -> ConfigDict:
  """A copy whose stages have the run's `seed` and `lora`, if it has them.

  A `lora.rank` of 0 leaves every training stage its own.
  """
  out = settings.copy_and_resolve_references()
  for stage in out.stages.values():
    with stage.unlocked():
      if "seed" in out:
        stage.seed = out.seed
      if "method" in stage and out.get("lora", {}).get("rank", 0):
        stage.lora.update(out.lora)
  return out


def resolve(settings: ConfigDict, workdir: Path) -> dict[str, ConfigDict]:
  """Stages in order, "stage:NAME.." replaced by what is in its folder.

  Raises:
    XpoError: order and stages differ, or a stage names a later one.
  """
  order = list(settings.order)
  if sorted(order) != sorted(settings.stages):
    raise usage_error(
      f"order={order} must name each of stages={sorted(settings.stages)} once"
    )
  out: dict[str, ConfigDict] = {}
  for name in order:

    def place(value, name=name):
      if isinstance(value, ConfigDict):
        return {k: place(v) for k, v in value.items()}
      if isinstance(value, tuple | list):
        return tuple(map(place, value))
      if isinstance(value, str) and value.startswith(PREFIX):
        other, mark, path = _PLACE.fullmatch(value).groups()
        if other not in out:
          raise usage_error(
            f"stages.{name}: {value!r} is no earlier stage; earlier ones: "
            f"{', '.join(out) or 'none'}"
          )
        return f"{workdir / other}{mark}{path}"
      return value

    out[name] = ConfigDict(place(settings.stages[name])).lock()
  return out


def _digests(settings: ConfigDict) -> dict[str, str]:
  """A stage's digest covers its config and all stages before it.

  Not where the folder is: it may be moved.
  """
  out, before = {}, ""
  for name in settings.order:
    stage = ConfigDict(settings.stages[name])
    text = json.dumps(stage.to_dict(), sort_keys=True, default=str)
    before = hashlib.sha256(f"{before}{name}{text}".encode()).hexdigest()
    out[name] = before
  return out


def _link(folder: Path, digest: str, reuse: Sequence[str]) -> None:
  """Links a finished stage of the same digest, if there is one."""
  for other in reuse:
    found = Path(other).absolute() / folder.name
    if folder.exists() or not (found / MANIFEST).is_file():
      continue
    try:
      manifest = json.loads((found / MANIFEST).read_text())
    except ValueError:
      continue
    if manifest.get("digest") == digest and manifest.get("summary"):
      folder.symlink_to(found.resolve(), target_is_directory=True)
      print(f"{folder.name}: taken from {found}")


def _refuse_change(folder: Path, digest: str) -> None:
  path = folder / MANIFEST
  if not path.exists():
    return
  try:
    found = json.loads(path.read_text())["digest"]
  except (ValueError, KeyError) as e:
    raise checkpoint_error(f"{path}: unreadable; delete {folder}") from e
  if found != digest:
    raise usage_error(
      f"{folder} was made with another config (or an earlier stage has "
      "changed); delete this folder and the later ones, or choose another "
      "--workdir"
    )


def _stage(title: str, stage, folder: Path, digest: str) -> dict:
  path = folder / MANIFEST
  fresh = {"digest": digest, "seconds": 0.0, "summary": None}
  manifest = hosts.first(
    lambda: json.loads(path.read_text()) if path.exists() else fresh
  )
  if manifest["summary"] is not None:
    print(f"{title}: finished before, skipped")
    return manifest
  print(f"\n{title}")
  folder.mkdir(parents=True, exist_ok=True)
  checkpoint.write_json(path, manifest)
  began = time.monotonic()
  manifest["summary"] = kind(folder.name, stage).run(stage, folder)
  manifest["seconds"] = round(time.monotonic() - began, 1)
  # A later stage finds all files of this one, on whatever process.
  hosts.first(lambda: checkpoint.write_json(path, manifest))
  return manifest


def _show(done: dict) -> None:
  for manifest in done.values():
    for table in manifest["summary"].get("tables", ()):
      progress.print_table(table["title"], table["columns"], table["rows"])
    samples = manifest["summary"].get("samples", ())
    if samples:
      report.print_samples(samples[:4])


def _report(settings, stages, done, workdir: Path) -> Path:
  """Collects what the stages left and writes report.html."""
  tables, samples, headline = [], [], []
  for manifest in done.values():
    tables += manifest["summary"].get("tables", [])
    samples += manifest["summary"].get("samples", [])
  accuracies = _accuracies(done, workdir)
  tables += [accuracies] if accuracies["rows"] else []
  headline += _headline(done, accuracies)
  trained = {k: v for k, v in stages.items() if "method" in v}
  return report.write_report(
    workdir,
    {
      "title": settings.title,
      "model": settings.model,
      "data": settings.data,
      "method": ", ".join(s.method.name for s in trained.values()),
      "seed": next(iter(trained.values())).seed if trained else 0,
      "headline": headline,
      "notes": list(settings.notes),
      "tables": tables,
      "samples": samples,
      "stages": [
        {
          "name": name,
          "config": stages[name].to_dict(),
          "metrics": metrics.read_metrics(workdir / name),
          "seconds": manifest["seconds"],
        }
        for name, manifest in done.items()
      ],
    },
  )


def _accuracies(done, workdir: Path) -> dict:
  rows = []
  for name in done:
    found = evaluation.held_out_accuracy(workdir / name)
    if found is not None:
      rows.append([name, compare.estimate_text(found), str(found.n)])
  return {
    "title": "Held-out pairs ranked as people ranked them",
    "columns": ["stage", "accuracy", "pairs"],
    "rows": rows,
  }


def _headline(done, accuracies) -> list[dict]:
  tiles = []
  for manifest in done.values():
    for measure, change in manifest["summary"].get("differences", {}).items():
      if measure in ("VADER", "TextBlob") and np.isfinite(change[0]):
        tiles.append(
          {
            "label": f"{measure}, change",
            "value": f"{change[0]:+.2f}",
            "detail": f"95% interval {change[1]:+.2f} to {change[2]:+.2f}",
          }
        )
  for name, accuracy, pairs in accuracies["rows"]:
    tiles.append(
      {
        "label": f"{name} accuracy",
        "value": accuracy.split()[0],
        "detail": f"{pairs} held-out pairs",
      }
    )
  return tiles


def evaluate(folder: str | os.PathLike) -> None:
  """Prints a finished run's tables, or evaluates a training run again.

  Raises:
    XpoError: the folder is no run.
  """
  folder = Path(folder)
  found = sorted(folder.glob("*/evaluation.json"))
  for path in found:
    _show({path.parent.name: {"summary": json.loads(path.read_text())}})
  if found:
    return
  if not (folder / "model.json").is_file():
    raise checkpoint_error(
      f"{folder}: neither a training run nor a finished `xpo run`; name the "
      "folder that was --workdir"
    )
  numbers = held_out.evaluate_run(folder)
  progress.print_table(
    f"held-out data of {folder}",
    ("metric", "value"),
    [(k, f"{v:.4f}") for k, v in sorted(numbers.items())],
  )
