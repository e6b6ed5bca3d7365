"""Runs to be broken: started by one forker, found again by their logs."""

from collections.abc import Callable
import dataclasses
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time

from tests import runs


@dataclasses.dataclass
class Run:
  """A process that the forker started."""

  pid: int
  log: pathlib.Path
  ended: "queue.Queue[int]"
  code: int | None = None

  def alive(self) -> bool:
    return self.code is None and self._look(0.0) is None

  def wait(self, seconds: float = runs.SECONDS) -> int:
    """The exit code; a run that does not end is killed, and fails the test."""
    if self._look(seconds) is None:
      self.send(9)
      raise AssertionError(f"still alive after {seconds} s: {self.text()}")
    return self.code

  def send(self, number: int) -> None:
    """Sends a signal, if there still is somebody."""
    if self.alive():
      os.kill(self.pid, number)

  def text(self) -> str:
    """stdout and stderr so far."""
    return self.log.read_text() if self.log.exists() else ""

  def until(self, happened: Callable[[], bool]) -> None:
    """Polls until it happened; the run must still be alive then."""
    end = time.monotonic() + runs.SECONDS
    while not happened() and self.alive() and time.monotonic() < end:
      time.sleep(0.002)
    assert self.alive(), f"ended too early with {self.code}: {self.text()}"

  def _look(self, seconds: float) -> int | None:
    if self.code is None:
      try:
        self.code = (
          self.ended.get(timeout=seconds)
          if seconds
          else (self.ended.get_nowait())
        )
      except queue.Empty:
        pass
    return self.code


class Farm:
  """One forker; `start` gives runs."""

  def __init__(self, env: dict[str, str]):
    self._process = subprocess.Popen(
      [sys.executable, "-m", "tests.faults.forker"],
      cwd=runs.ROOT,
      env=env,
      text=True,
      bufsize=1,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
    )
    self._started: queue.Queue = queue.Queue()
    self._codes: dict[int, queue.Queue] = {}
    self._reader = threading.Thread(target=self._read, daemon=True)
    self._reader.start()

  def _read(self):
    for line in self._process.stdout:
      said = json.loads(line)
      ended = self._codes.setdefault(said["pid"], queue.Queue())
      if "code" in said:
        ended.put(said["code"])
        del self._codes[said["pid"]]  # its number may come again
      else:
        self._started.put((said["pid"], ended))

  def start(self, *argv: str, log: pathlib.Path, **more) -> Run:
    """`xpo ARGV` as a process of its own; `more` is for the forker."""
    job = {"argv": list(argv), "env": {}, "log": str(log)} | more
    self._process.stdin.write(json.dumps(job) + "\n")
    pid, ended = self._started.get(timeout=runs.SECONDS)
    return Run(pid, log, ended)

  def close(self):
    self._process.stdin.close()
    self._process.wait(timeout=60)
    self._reader.join(timeout=60)
    self._process.stdout.close()
