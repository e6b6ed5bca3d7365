"""Checkpoints of a run: written by orbax, sealed, verified before any use.

A run folder holds `checkpoints/STEP/{state,data,meta,manifest.json}`: arrays,
data position and JSON metadata as orbax writes them, and the SHA-256 of every
byte (`sealing`). Restoring is exact: parameters, moments, key, method
statistics and data position; a damaged step is never used.
"""

from collections.abc import Mapping
import contextlib
import fcntl
import json
import os
from pathlib import Path
import shutil
import socket
import sys
import time

import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp

from xpo_jax import sealing, stored
from xpo_jax.errors import (
  Exit,
  XpoError,
  checkpoint_error,
  first_line,
  storage_error,
)
from xpo_jax.saver import Saver
from xpo_jax.types import PyTree, TrainState


@contextlib.contextmanager
def locked(folder: Path):
  """One run a folder; the lock dies with its process.

  Of the processes of one run the first holds it, and all learn the outcome.

  Raises:
    XpoError: another run holds it (exit code 73).
  """
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / ".lock", "a+", encoding="utf-8") as f:
    free, first = True, jax.process_index() == 0
    if first:
      try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        free = False
    if jax.process_count() > 1:
      free = bool(multihost_utils.broadcast_one_to_all(np.bool_(free)))
    holder = _holder(f, free)
    if not free:
      raise XpoError(
        f"{folder}: another process writes this run ({holder or 'unknown'}); "
        "wait for it or choose another --workdir",
        Exit.LOCKED,
      )
    if not first:
      yield
      return
    if holder:
      print(f"{folder}: taken over from {holder}, which ended abruptly")
    f.truncate(0)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    f.write(f"process {os.getpid()} on {socket.gethostname()} since {since}")
    f.flush()
    try:
      yield
    finally:
      f.truncate(0)


def saved_steps(run: Path) -> list[int]:
  """Sealed steps of a run folder, ascending; not verified."""
  return sealing.steps(run / stored.FOLDER)


def _holder(f, free: bool) -> str:
  """What the lock's file says; its new owner may still be about to write."""
  for _ in range(20):
    f.seek(0)
    holder = f.read().strip()
    if holder or free:
      return holder
    time.sleep(0.1)
  return ""


@contextlib.contextmanager
def open_checkpoints(run: Path, keep: int, best: int = 0):
  """A Saver whose accepted saves are never lost on the way out.

  Args:
    run: the run folder; hold its lock.
    keep: newest steps kept.
    best: steps of lowest loss kept besides, see `save`.

  Raises:
    XpoError: what was accepted could not be written (exit code 74).
  """
  saver = Saver((run / stored.FOLDER).absolute(), keep, best)
  if jax.process_index() == 0:
    saver.folder.mkdir(parents=True, exist_ok=True)
    sealing.sweep(saver.folder)
  with _no_echoes():
    try:
      yield saver
    except BaseException:
      try:
        saver.close()
      except XpoError as e:  # the first error is the one to show
        print(f"warning: {e}")
      raise
    saver.close()


@contextlib.contextmanager
def _no_echoes():
  """After one failed write orbax's others report to a loop that is closed."""
  before = sys.unraisablehook

  def hook(what):
    if str(what.exc_value) != "Event loop is closed":
      before(what)

  sys.unraisablehook = hook
  try:
    yield
  finally:
    sys.unraisablehook = before


def save(
  saver: Saver,
  state: TrainState,
  data: dict,
  meta: dict,
  losses: Mapping[int, float] | None = None,
) -> None:
  """Queues a save of the current step (asynchronous).

  Args:
    saver: from `open_checkpoints`.
    state: of which nothing is used after this returns.
    data: the position in the data, for JSON.
    meta: for JSON; `read_meta` finds it again.
    losses: step -> held-out loss; see `open_checkpoints`' best.

  Raises:
    XpoError: too many saves have failed (exit code 74).
  """
  args = ocp.args.Composite(
    state=ocp.args.StandardSave(_plain(state)),
    data=ocp.args.JsonSave(data),
    meta=ocp.args.JsonSave(meta),
  )
  saver.write(int(state.step), args, losses or {})


def require_room(saver: Saver, state: TrainState, keep: int) -> None:
  """Before anything expensive: is there room for the next checkpoints?

  Raises:
    XpoError: less than twice the size of `state` is free, or once if `keep`
      steps are there already (exit code 74).
  """
  size = sum(x.nbytes for x in jax.tree.leaves(_plain(state)))
  copies = 1 if len(sealing.steps(saver.folder)) >= keep else 2
  disk = shutil.disk_usage(saver.folder)
  if disk.total and disk.free < copies * size:
    raise storage_error(
      f"{saver.folder}: {disk.free / 1e6:.0f} MB are free, {copies} "
      f"checkpoint(s) of {size / 1e6:.0f} MB must fit; free space or choose "
      "another --workdir"
    )


def restore(
  saver: Saver, like: TrainState
) -> tuple[TrainState, dict, dict] | None:
  """Newest intact (state, data, meta), or None if there is no checkpoint.

  Args:
    saver: from `open_checkpoints`.
    like: a state of the right shapes, dtypes and shardings.

  Raises:
    XpoError: no checkpoint is intact, or it does not fit `like` (exit code
      66).
  """
  step = _choose(saver.folder)
  if step is None:
    return None
  folder, plain = saver.folder / str(step), _plain(like)
  _check_leaves(folder, plain)
  abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, plain)
  try:
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
      found = reader.restore(
        folder,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(abstract),
          data=ocp.args.JsonRestore(),
          meta=ocp.args.JsonRestore(),
        ),
      )
  except Exception as e:  # orbax raises many kinds
    raise checkpoint_error(
      f"{folder}: does not fit this run ({first_line(e)}); use the "
      "run's own config or a new --workdir"
    ) from e
  state = like.replace(**{k: found["state"][k] for k in plain})
  key = jax.random.wrap_key_data(found["state"]["key"])
  return state.replace(key=key), found["data"], found["meta"]


def _choose(folder: Path) -> int | None:
  """The newest intact step, the same on all processes."""
  step, wrong = None, []
  if jax.process_index() == 0:
    step, wrong = stored.newest(folder)
  if jax.process_count() > 1:
    code = -1 if step is None else step
    code = int(multihost_utils.broadcast_one_to_all(np.int64(code)))
    step = None if code < 0 else code
    anything = multihost_utils.broadcast_one_to_all(np.bool_(bool(wrong)))
    wrong = wrong or ([f"{folder}: damaged"] if anything else [])
  if step is None and wrong:
    raise stored.none_intact(wrong)
  return step


def _check_leaves(folder: Path, plain: dict) -> None:
  """Names the first leaf that differs; orbax casts, and reads before that."""
  with ocp.PyTreeCheckpointer() as reader:
    try:
      found = reader.metadata(folder / "state").item_metadata
    except Exception as e:  # orbax raises many kinds
      raise stored.unreadable(folder, first_line(e)) from e
  if found is None:
    raise stored.unreadable(folder, "its metadata are gone")
  saved, wanted = _leaves(found.tree), _leaves(plain)
  for name in sorted({*saved, *wanted}):
    there, here = saved.get(name), wanted.get(name)
    if there == here:
      continue
    show = lambda leaf, other: (
      "absent" if leaf is None
      else str(leaf[0]) if other is None or leaf[1] == other[1]
      else f"{leaf[1]}{leaf[0]}"
    )  # fmt: skip
    raise checkpoint_error(
      f"{folder}: does not fit this run: {name} is {show(there, here)} there, "
      f"{show(here, there)} here; use the run's own config or a new --workdir"
    )


def _leaves(tree: PyTree) -> dict[str, tuple]:
  """Path -> (shape, dtype); the kind of a container is not in the path."""
  part = lambda k: str(
    getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))
  )
  return {
    "/".join(map(part, path)): (tuple(leaf.shape), str(np.dtype(leaf.dtype)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _plain(state: TrainState) -> dict:
  fields = {
    k: getattr(state, k)
    for k in (
      *("step", "params", "opt_state", "method_state", "skipped"),
      "ema_params",
    )
  }
  fields = {k: v for k, v in fields.items() if v is not None}
  return fields | {"key": jax.random.key_data(state.key)}


def write_text(path: Path, text: str) -> None:
  """Atomic: a reader sees the old file or the new one, also after a power cut.

  Of several processes only the first writes.
  """
  if jax.process_index():
    return
  part = path.with_suffix(path.suffix + ".part")
  with open(part, "w", encoding="utf-8") as f:
    f.write(text)
    f.flush()
    os.fsync(f.fileno())
  part.replace(path)


def write_json(path: Path, value: dict) -> None:
  """Sorted, indented JSON, written atomically."""
  write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")
