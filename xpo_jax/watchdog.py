"""No process hangs: without a sign of life for so long, it ends with stacks.

A peer that died is found by jax's heartbeat; one that lives but is stuck (in
its data, a disk, a collective) only by this.
"""

from collections.abc import Callable
import contextlib
import faulthandler
import os
import sys
import threading
import time

from xpo_jax.errors import Exit

_LATER = 10.0  # seconds after which C takes over, if Python is blocked, too


def show_crashes() -> None:
  """A process that is killed from C (also by jax's heartbeat) shows stacks."""
  if sys.__stderr__ is not None:
    faulthandler.enable(sys.__stderr__)


def show_stacks() -> None:
  """Writes the stacks of all threads to stderr."""
  if sys.__stderr__ is not None:
    faulthandler.dump_traceback(sys.__stderr__, all_threads=True)


@contextlib.contextmanager
def watching(seconds: float):
  """Yields alive(); if it is not called for `seconds`, the process ends.

  All threads' stacks go to stderr, then the exit code is 76. A process that
  was suspended for longer than `seconds` ends as well.

  Args:
    seconds: 0 watches nothing.
  """
  if not seconds:
    yield lambda: None
    return
  done, last = threading.Event(), [time.monotonic()]

  def watch():
    while not done.wait(min(1.0, seconds / 10)):
      if time.monotonic() - last[0] > seconds:
        _end(seconds)

  alive = _alive(last, seconds)
  thread = threading.Thread(target=watch, name="xpo_watchdog", daemon=True)
  thread.start()
  try:
    yield alive
  finally:
    done.set()
    thread.join()
    faulthandler.cancel_dump_traceback_later()


def _alive(last: list[float], seconds: float) -> Callable[[], None]:
  armed = [0.0]

  def alive():
    now = last[0] = time.monotonic()
    # A thread each time: not for every step of a small model.
    if now - armed[0] > _LATER / 10 and sys.__stderr__ is not None:
      armed[0] = now
      faulthandler.dump_traceback_later(
        seconds + _LATER, exit=True, file=sys.__stderr__
      )

  alive()
  return alive


def _end(seconds: float) -> None:
  if sys.__stderr__ is not None:
    sys.__stderr__.write(
      f"error: nothing has moved for {seconds:g} s (train.stall_seconds); the "
      "stacks of all threads follow; start the same command again to go on\n"
    )
    sys.__stderr__.flush()
  show_stacks()
  os._exit(Exit.STALL)
