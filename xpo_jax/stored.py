"""Which steps a run folder has, which of them are intact, and what they hold.

Reading alone: no template of the state, no lock, any devices.
"""

import json
import math
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from xpo_jax import metrics, sealing
from xpo_jax.errors import XpoError, checkpoint_error, first_line
from xpo_jax.types import PyTree

FOLDER = "checkpoints"
MAX_RATIO = 100  # numbers in memory over bytes on the disk, from _FLOOR on
_FLOOR = 2**26  # bytes
_META = "meta/metadata"  # where orbax's JsonSave writes the item `meta`


def split_source(source: str | Path) -> tuple[Path, str]:
  """RUN@WHICH -> (RUN, WHICH); anything else is its own path, without."""
  folder, at, which = str(source).rpartition("@")
  if at and (Path(folder) / "model.json").is_file():
    return Path(folder), which
  return Path(source), ""


def newest(folder: Path) -> tuple[int | None, list[str]]:
  """`sealing.newest_intact`, saying loudly what it had to leave out."""
  step, wrong = sealing.newest_intact(folder)
  if step is not None:
    for line in wrong:
      print(f"warning: {line}; falling back to step {step}")
  return step, wrong


def none_intact(wrong: list[str]) -> XpoError:
  return checkpoint_error(
    f"{wrong[0]}; no intact checkpoint is left: bring the files back, or "
    "train again in another --workdir"
  )


def choose(run: Path, which: str = "") -> int:
  """An intact step of a run folder.

  Args:
    run: the folder.
    which: empty for the newest, "best" for the lowest held-out loss, or a
      step's number.

  Raises:
    XpoError: there is none (exit code 66).
  """
  folder = run / FOLDER
  if not sealing.numbered(folder):
    raise checkpoint_error(
      f"{run}: no checkpoint in it; train there first or name another folder"
    )
  if not which:
    step, wrong = newest(folder)
    if step is None:
      raise none_intact(wrong)
    return step
  wanted = [which]
  if which == "best":
    losses = dict(metrics.read_metrics(run).get("eval/loss", ()))
    wanted = [str(s) for s in sealing.lowest(sealing.steps(folder), losses)]
  for step in wanted[:1]:
    reason = sealing.damage(folder / step) if step.isdecimal() else "no step"
    if not reason:
      return int(step)
    have = ", ".join(map(str, sealing.steps(folder)))
    raise checkpoint_error(f"{folder / step}: {reason}; {run} has {have}")
  raise checkpoint_error(
    f"{run}: no step has a finite held-out loss; set train.eval_every to a "
    "multiple of train.save_every"
  )


def restore_params(run: Path, step: int | None = None) -> PyTree:
  """Trained parameters of a checkpoint, as numpy, no template.

  Args:
    run: the folder.
    step: one that `choose` gave; None for the newest.

  Raises:
    XpoError: the folder has no intact checkpoint (exit code 66).
  """
  step = choose(run) if step is None else step
  folder = (run / FOLDER).absolute() / str(step) / "state"
  with ocp.PyTreeCheckpointer() as reader:
    try:
      found = reader.metadata(folder).item_metadata
      if found is None:
        raise ValueError("its metadata are gone")
      target = {"params": found.tree["params"]}
      _refuse_hollow(folder, target)
      # numpy: the devices that saved it may not be here.
      whole = lambda _: ocp.RestoreArgs(restore_type=np.ndarray)
      args = jax.tree.map(whole, target)
      return reader.restore(
        folder,
        args=ocp.args.PyTreeRestore(
          item=target, restore_args=args, partial_restore=True
        ),
      )["params"]
    except XpoError:
      raise
    except Exception as e:  # orbax raises many kinds
      raise unreadable(folder, first_line(e)) from e


def _refuse_hollow(folder: Path, tree: PyTree) -> None:
  """Before anything is allocated: a few bytes may declare any shape."""
  size = lambda x: math.prod(x.shape) * np.dtype(x.dtype).itemsize
  declared = sum(map(size, jax.tree.leaves(tree)))
  there = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
  if declared > max(_FLOOR, MAX_RATIO * there):
    raise ValueError(f"{there} bytes that declare {declared}")


def read_meta(run: Path, step: int | None = None) -> dict | None:
  """The JSON metadata saved with a step; None if there is none.

  Args:
    run: the folder.
    step: None for the newest whose metadata are what was sealed.
  """
  found = sealing.steps(run / FOLDER) if step is None else [step]
  for number in reversed(found):
    try:
      return json.loads(sealing.read_file(run / FOLDER / str(number), _META))
    except (ValueError, RecursionError):
      continue
  return None


def refuse_base(run: Path, step: int, source: str, base: str) -> None:
  """Frozen weights come from their source again: they must be the same.

  Args:
    run: the folder.
    step: of the checkpoint that they complete.
    source: where they come from.
    base: `states.base_fingerprint` of what is there now.

  Raises:
    XpoError: they have changed since the run was trained (exit code 66).
  """
  meta = read_meta(run, step) or {}
  saved = meta.get("fingerprints", {}).get("base", base)
  if saved != base:
    raise checkpoint_error(
      f"{run}: the frozen weights in model.source={source} have changed since "
      f"it was trained (fingerprint {saved}, now {base}); bring them back"
    )


def unreadable(folder, why: str) -> XpoError:
  return checkpoint_error(
    f"{folder}: unreadable ({why}); train again in another --workdir"
  )
