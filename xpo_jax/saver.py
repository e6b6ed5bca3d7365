"""Saves in the background: orbax writes, then the step is sealed and pruned.

`checkpoint` is the front: what is saved, and how it is found again.
"""

from collections.abc import Mapping
import contextlib
import itertools
from pathlib import Path
import threading

import jax
import orbax.checkpoint as ocp

from xpo_jax import sealing
from xpo_jax.errors import XpoError, first_line, storage_error

ATTEMPTS = 3  # failed saves in a row before the run stops
_BARRIER_SECONDS = 3600
_numbers = itertools.count()  # barriers of a process have names of their own


class Saver:
  """Saves in the background, seals, and removes what need not be kept.

  Args:
    folder: gets one folder a step.
    keep: newest steps kept.
    best: steps of lowest loss kept besides.
  """

  def __init__(self, folder: Path, keep: int, best: int):
    self.folder = folder
    self.failures = 0  # in a row
    self._keep, self._best = keep, best
    self._error: Exception | None = None
    self._thread: threading.Thread | None = None
    self._writer = _make_writer()

  def write(self, step: int, args, losses: Mapping[int, float]) -> None:
    """Starts a save; returns when the arrays may be overwritten."""
    self.wait()
    path = sealing.saving(self.folder, step)
    try:
      if jax.process_index() == 0:
        sealing.sweep(self.folder)
      self._writer.save(path, args=args)
    except Exception as e:  # orbax and the file system raise many kinds
      self._error = e
      self._count()
      return
    self._thread = threading.Thread(
      target=self._finish, args=(path, step, dict(losses)), name="xpo_seal"
    )
    self._thread.start()

  def poll(self) -> bool:
    """Whether the last save has failed; call it every step.

    Raises:
      XpoError: `ATTEMPTS` saves in a row have failed (exit code 74).
    """
    if self._thread is not None and not self._thread.is_alive():
      self.wait()
    return self.failures > 0

  def wait(self) -> bool:
    """Waits for the save under way; True if the last one is on the disk.

    Raises:
      XpoError: as `poll`.
    """
    if self._thread is not None:
      self._thread.join()
      self._thread = None
      self._count()
    return self.failures == 0

  def close(self) -> None:
    """Waits, and reports what was not saved."""
    failed = not self.wait()
    self._writer.close()
    if failed:
      raise _not_written(self.folder, "see the warning above")

  def _count(self) -> None:
    error, self._error = self._error, None
    if error is None:
      self.failures = 0
      return
    self.failures += 1
    # The processes of a run cannot try again on their own.
    if self.failures >= ATTEMPTS or jax.process_count() > 1:
      raise _not_written(self.folder, first_line(error)) from error
    print(
      f"warning: {self.folder}: a checkpoint could not be written "
      f"({first_line(error)}); trying again after the next step"
    )
    with contextlib.suppress(Exception):
      self._writer.close()
    self._writer = _make_writer()

  def _finish(self, path: Path, step: int, losses: dict) -> None:
    """In the thread: orbax's part, then seal, commit and prune."""
    try:
      self._writer.wait_until_finished()
      if jax.process_index() == 0:
        sealing.seal(path, step)
        sealing.commit(path, self.folder / str(step))
        self._prune(step, losses)
      if jax.process_count() > 1:
        barrier = ocp.multihost.get_barrier_sync_fn()
        key = f"xpo_sealed_{next(_numbers)}"
        barrier(key=key, timeout_ms=_BARRIER_SECONDS * 1000)
    except Exception as e:
      self._error = e

  def _prune(self, step: int, losses: dict) -> None:
    """After a commit: the new step is on the disk whatever happens here."""
    try:
      for number in sealing.numbered(self.folder):
        if number > step:  # of a history that was given up as damaged
          sealing.set_aside(self.folder / str(number))
      found = sealing.steps(self.folder)
      kept = sealing.retained(found, self._keep, losses, self._best)
      for number in found:
        if number not in kept:
          sealing.discard(self.folder / str(number))
    except OSError as e:
      print(f"warning: {self.folder}: old checkpoints stay ({e.strerror})")


def _make_writer() -> ocp.AsyncCheckpointer:
  return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())


def _not_written(folder: Path, why: str) -> XpoError:
  return storage_error(
    f"{folder}: the checkpoint could not be written ({why}); free space or "
    "choose another --workdir, then start the same command again"
  )
