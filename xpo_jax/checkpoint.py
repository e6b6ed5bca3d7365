"""Checkpoints: orbax Composite of state, data position and JSON metadata.

A run folder holds `checkpoints/STEP/{state,data,meta}`. Restoring is exact:
parameters, moments, key, method statistics and data position.
"""

import contextlib
import fcntl
import json
from pathlib import Path

import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp

from xpo_jax.errors import Exit, XpoError, checkpoint_error, storage_error
from xpo_jax.types import PyTree, TrainState


@contextlib.contextmanager
def locked(folder: Path):
  """One run a folder; the lock dies with its process.

  Of the processes of one run the first holds it, and all learn the outcome.

  Raises:
    XpoError: another run holds it (exit code 73).
  """
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / ".lock", "a") as f:
    free = True
    if jax.process_index() == 0:
      try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        free = False
    if jax.process_count() > 1:
      free = bool(multihost_utils.broadcast_one_to_all(np.bool_(free)))
    if not free:
      raise XpoError(
        f"{folder}: another process writes this run; wait for it or choose "
        "another --workdir",
        Exit.LOCKED,
      )
    yield


def saved_steps(run: Path) -> list[int]:
  """Steps of a run folder's checkpoints, ascending."""
  found = (run / "checkpoints").glob("*")
  return sorted(int(p.name) for p in found if p.name.isdigit() and p.is_dir())


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
  _check_shapes(manager.directory / str(step), plain)
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


def _check_shapes(folder, plain: dict) -> None:
  """Names the first leaf that differs; orbax reads before it complains."""
  with ocp.PyTreeCheckpointer() as reader:
    try:
      found = reader.metadata(folder / "state").item_metadata
    except (OSError, ValueError, KeyError) as e:
      raise _unreadable(folder, _first_line(e)) from e
  if found is None:
    raise _unreadable(folder, "its metadata are gone")
  saved, wanted = _shapes(found.tree), _shapes(plain)
  for name in sorted({*saved, *wanted}):
    if saved.get(name) != wanted.get(name):
      raise checkpoint_error(
        f"{folder}: does not fit this run: {name} is "
        f"{saved.get(name, 'absent')} there, {wanted.get(name, 'absent')} "
        "here; use the run's own config or a new --workdir"
      )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  """Path -> shape; the kind of a container is not part of the path."""
  part = lambda k: str(
    getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))
  )
  return {
    "/".join(map(part, path)): tuple(leaf.shape)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _unreadable(folder, why: str) -> XpoError:
  return checkpoint_error(
    f"{folder}: unreadable ({why}); delete this step to fall back to the one "
    "before"
  )


def restore_params(run: Path) -> PyTree:
  """Trained parameters of a run's newest checkpoint, as numpy, no template.

  Raises:
    XpoError: the folder has no checkpoint (exit code 66).
  """
  steps = saved_steps(run)
  if not steps:
    raise checkpoint_error(
      f"{run}: no checkpoint in it; train there first or name another folder"
    )
  folder = (run / "checkpoints").absolute() / str(steps[-1]) / "state"
  with ocp.PyTreeCheckpointer() as reader:
    try:
      found = reader.metadata(folder).item_metadata
      if found is None:
        raise ValueError("its metadata are gone")
      target = {"params": found.tree["params"]}
      # numpy: the devices that saved it may not be here.
      whole = lambda _: ocp.RestoreArgs(restore_type=np.ndarray)
      args = jax.tree.map(whole, target)
      return reader.restore(
        folder,
        args=ocp.args.PyTreeRestore(
          item=target, restore_args=args, partial_restore=True
        ),
      )["params"]
    except (OSError, ValueError, KeyError) as e:
      raise _unreadable(folder, _first_line(e)) from e


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
  """Atomic: a reader sees the old file or the new one.

  Of several processes only the first writes.
  """
  if jax.process_index():
    return
  part = path.with_suffix(path.suffix + ".part")
  part.write_text(text)
  part.replace(path)


def write_json(path: Path, value: dict) -> None:
  """Sorted, indented JSON, written atomically."""
  write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")
