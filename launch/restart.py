"""Runs a command again when it was preempted (75) or stalled (76)."""

from collections.abc import Callable, Sequence
import subprocess
import sys
from typing import TextIO

AGAIN = (75, 76)  # saved and preempted; nothing moved for too long


def run(
  command: Sequence[str],
  restarts: int,
  log: TextIO | None = None,
  before: Callable[[], int] = lambda: 0,
  again: Callable[[int], bool] = lambda code: code in AGAIN,
) -> int:
  """The exit code of the last run; output goes to the terminal and to `log`.

  Args:
    command: program and arguments.
    restarts: at most so many runs after the first.
    log: also written, if given.
    before: called before every run; a code other than 0 ends it all.
    again: whether an exit code asks for another run.
  """
  code = 0
  for number in range(restarts + 1):
    code = before()
    if code:
      return code
    process = subprocess.Popen(
      command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in process.stdout:
      sys.stdout.write(line)
      if log:
        log.write(line)
        log.flush()
    code = process.wait()
    if not again(code):
      return code
    print(f"ended with {code}; restart {number + 1} of {restarts}")
  return code
