"""A process that is stuck ends by itself and says where."""

import os
import subprocess
import sys

from tests import runs

STUCK = """
import sys, time
from xpo_jax import watchdog

def reading_a_dead_disk():
  time.sleep(60)

with watchdog.watching(2.5) as alive:
  for _ in range(3):
    time.sleep(1)
    alive()
  print("was alive", flush=True)
  reading_a_dead_disk()
"""
CRASH = """
import ctypes
from xpo_jax import watchdog
watchdog.show_crashes()

def deep_in_c():
  ctypes.CDLL(None).abort()

deep_in_c()
"""


def run(code):
  """Ends before the sleep of what is stuck does, or not at all."""
  return subprocess.run(
    [sys.executable, "-c", code],
    env=os.environ | {"PYTHONPATH": str(runs.ROOT)},
    capture_output=True,
    text=True,
    timeout=50,
  )


def test_a_stuck_process_ends_with_stacks():
  done = run(STUCK)
  assert done.returncode == 76
  assert done.stdout == "was alive\n"  # 3 s in all, 1 s at a time
  assert "nothing has moved for 2.5 s (train.stall_seconds)" in done.stderr
  assert "in reading_a_dead_disk" in done.stderr


def test_python_blocked_in_c_ends_as_well():
  # A regular expression holds the interpreter: no thread of ours can run.
  code = STUCK.replace("time.sleep(60)", 're.match("(a+)+b", "a" * 40)')
  code = code.replace("import sys", "import re, sys").replace(
    "watchdog\n", "watchdog\nwatchdog._LATER = 0.4\n", 1
  )
  done = run(code)
  assert done.returncode == 1
  assert "in reading_a_dead_disk" in done.stderr


def test_a_watch_ends_with_its_block():
  done = run(
    "import time\nfrom xpo_jax import watchdog\n"
    "with watchdog.watching(0.3): pass\n"
    "with watchdog.watching(0) as alive: alive()\n"
    "time.sleep(1)\nprint('ended')"
  )
  assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")


def test_a_crash_in_c_shows_stacks():
  done = run(CRASH)
  assert done.returncode == -6 and "in deep_in_c" in done.stderr
