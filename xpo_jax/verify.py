"""`xpo verify RUN`: every byte of a run's checkpoints, without jax."""

import json
import os
from pathlib import Path
from typing import Any

from xpo_jax import progress, sealing
from xpo_jax.errors import checkpoint_error, usage_error

_FOLDER, _META = "checkpoints", "meta/metadata"
_SHOWN = 16  # digits of a hash in the table; --json has them all


def run(folder: str | os.PathLike, as_json: bool = False) -> None:
  """Verifies all steps of a run, or of each stage of one, and prints them.

  Args:
    folder: with checkpoints/, or folders with them.
    as_json: one JSON object instead of tables.

  Raises:
    XpoError: no checkpoint there, or a damaged one (exit code 66).
  """
  folder = Path(folder)
  if not folder.is_dir():
    raise usage_error(f"{folder} is no folder; name a run's --workdir")
  runs = [
    path
    for path in (folder, *sorted(folder.iterdir()))
    if sealing.numbered(path / _FOLDER)
  ]
  if not runs:
    raise checkpoint_error(
      f"{folder}: no checkpoint in it; name a run's folder"
    )
  found = {str(path): [examine(path, n) for n in _steps(path)] for path in runs}
  if as_json:
    print(json.dumps(found, indent=2, sort_keys=True))
  else:
    for path, steps in found.items():
      _show(path, steps)
  wrong = [
    f"{path}/{_FOLDER}/{step['step']}: {step['damage']}"
    for path, steps in found.items()
    for step in steps
    if step["damage"]
  ]
  if wrong:
    raise checkpoint_error(
      f"{wrong[0]}; {len(wrong)} damaged step(s): a run falls back to an "
      "intact one by itself"
    )


def _steps(path: Path) -> list[int]:
  return sealing.numbered(path / _FOLDER)


def examine(path: Path, step: int) -> dict[str, Any]:
  """What there is to know of one step.

  Args:
    path: folder of the training run.
    step: one of `sealing.numbered`.

  Returns:
    step; damage, "" if intact; if intact also seal (SHA-256 of the tree), files
    {name: {bytes, sha256}} and what was saved as metadata: config,
    fingerprints, rows, versions, code.
  """
  folder = path / _FOLDER / str(step)
  out: dict[str, Any] = {"step": step, "damage": sealing.damage(folder)}
  if out["damage"]:
    return out
  manifest = sealing.read_manifest(folder)
  out |= {"seal": manifest["seal"], "files": manifest["files"]}
  try:
    meta = json.loads(sealing.read_file(folder, _META))
  except (ValueError, RecursionError) as e:  # not sealed by a training run
    return out | {"damage": str(e)}
  kinds = {
    name: dict for name in ("config", "fingerprints", "rows", "versions")
  }
  kinds["code"] = str
  meta = meta if isinstance(meta, dict) else {"config": meta}
  for name, kind in kinds.items():
    out[name] = meta.get(name, kind())
    if not isinstance(out[name], kind):
      return out | {"damage": f"{_META} is not of a training run: {name}"}
  return out


def _show(path: str, steps: list[dict[str, Any]]) -> None:
  print(path)  # a title would be broken at the table's width
  progress.print_table(
    "checkpoints",
    ("step", "files", "MB", "SHA-256", "state"),
    [_row(step) for step in steps],
  )
  intact = [step for step in steps if not step["damage"]]
  if not intact:
    return
  newest = intact[-1]
  facts = [("code", newest["code"] or "installed")]
  for part in ("fingerprints", "versions", "rows"):
    facts += [(f"{part[:-1]}: {k}", v) for k, v in newest[part].items() if v]
  facts += _leaves(newest["config"], "config: ")
  title = f"what step {newest['step']} was made with"
  progress.print_table(title, ("", ""), facts)


def _row(step: dict[str, Any]) -> tuple:
  if step["damage"]:
    return step["step"], "", "", "", step["damage"]
  size = sum(f["bytes"] for f in step["files"].values())
  count = len(step["files"])
  seal = step["seal"][:_SHOWN]
  return step["step"], count, f"{size / 1e6:.1f}", seal, "intact"


def _leaves(tree: dict, prefix: str) -> list[tuple[str, Any]]:
  out = []
  for key, value in sorted(tree.items()):
    if isinstance(value, dict):
      out += _leaves(value, f"{prefix}{key}.")
    else:
      out.append((f"{prefix}{key}", value))
  return out
