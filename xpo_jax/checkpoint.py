"""Checkpoints: orbax Composite of state, data position and JSON metadata.

A run folder holds `checkpoints/STEP/{state,data,meta}`. Restoring is exact:
parameters, moments, key, method statistics and data position.
"""

import contextlib
import fcntl
import json
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from xpo_jax.errors import Exit, XpoError, checkpoint_error, storage_error
from xpo_jax.types import PyTree, TrainState


@contextlib.contextmanager
def locked(folder: Path):
  """One writer a run folder; the lock dies with its process."""
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / ".lock", "a") as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      raise XpoError(
        f"{folder}: another process writes this run; wait for it or choose "
        "another --workdir",
        Exit.LOCKED,
      ) from e
    yield


@contextlib.contextmanager
def open_checkpoints(folder: Path, keep: int):
  """A manager whose accepted saves are never lost on the way out."""
  manager = ocp.CheckpointManager(
    (folder / "checkpoints").absolute(),
    item_names=("state", "data", "meta"),
    options=ocp.CheckpointManagerOptions(
      max_to_keep=keep, cleanup_tmp_directories=True
    ),
  )
  try:
    yield manager
    manager.wait_until_finished()
    manager.check_for_errors()
  finally:
    manager.close()


def save(manager, state: TrainState, data: dict, meta: dict) -> None:
  """Queues a save of the current step (asynchronous).

  Raises:
    XpoError: an earlier save failed (exit code 74).
  """
  try:
    manager.check_for_errors()
    manager.save(
      int(state.step),
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(_plain(state)),
        data=ocp.args.JsonSave(data),
        meta=ocp.args.JsonSave(meta),
      ),
    )
  except OSError as e:
    raise storage_error(
      f"{manager.directory}: the checkpoint could not be written ({e}); free "
      "space or choose another --workdir, then start the same command again"
    ) from e


def restore(manager, like: TrainState) -> tuple[TrainState, dict, dict] | None:
  """Newest (state, data, meta), or None if there is no checkpoint.

  Args:
    manager: from `open_checkpoints`.
    like: a state of the right shapes, dtypes and shardings.

  Raises:
    XpoError: the checkpoint does not fit `like` (exit code 66).
  """
  step = manager.latest_step()
  if step is None:
    return None
  plain = _plain(like)
  abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, plain)
  try:
    found = manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract),
        data=ocp.args.JsonRestore(),
        meta=ocp.args.JsonRestore(),
      ),
    )
  except Exception as e:  # orbax raises many kinds
    raise checkpoint_error(
      f"{manager.directory}/{step}: does not fit this run "
      f"({_first_line(e)}); use the run's own config or a new --workdir"
    ) from e
  state = like.replace(**{k: found["state"][k] for k in plain})
  key = jax.random.wrap_key_data(found["state"]["key"])
  return state.replace(key=key), found["data"], found["meta"]


def restore_params(run: Path) -> PyTree:
  """Trained parameters of a run's newest checkpoint, as numpy, no template.

  Raises:
    XpoError: the folder has no checkpoint (exit code 66).
  """
  root = (run / "checkpoints").absolute()
  steps = sorted(
    int(p.name) for p in root.glob("*") if p.name.isdigit() and p.is_dir()
  )
  if not steps:
    raise checkpoint_error(
      f"{run}: no checkpoint in it; train there first or name another folder"
    )
  folder = root / str(steps[-1]) / "state"
  with ocp.PyTreeCheckpointer() as reader:
    try:
      saved = reader.metadata(folder).item_metadata.tree
      target = {"params": saved["params"]}
      args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=None), target)
      return reader.restore(
        folder,
        args=ocp.args.PyTreeRestore(
          item=target, restore_args=args, partial_restore=True
        ),
      )["params"]
    except (OSError, ValueError, KeyError) as e:
      raise checkpoint_error(
        f"{folder}: unreadable ({_first_line(e)}); delete this step to fall "
        "back to the one before"
      ) from e


def _plain(state: TrainState) -> dict:
  fields = {
    k: getattr(state, k)
    for k in ("step", "params", "opt_state", "method_state", "skipped")
  }
  fields = {k: v for k, v in fields.items() if v is not None}
  return fields | {"key": jax.random.key_data(state.key)}


def _first_line(e: Exception) -> str:
  return str(e).strip().split("\n")[0][:200]


def write_text(path: Path, text: str) -> None:
  """Atomic: a reader sees the old file or the new one."""
  part = path.with_suffix(path.suffix + ".part")
  part.write_text(text)
  part.replace(path)


def write_json(path: Path, value: dict) -> None:
  """Sorted, indented JSON, written atomically."""
  write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")
