"""A process that is stuck ends by itself and says where."""

import os
import subprocess
import sys
import time

from tests import runs

STUCK = """
import sys, time
from xpo_jax import watchdog

def reading_a_dead_disk():
  time.sleep(60)

with watchdog.watching(0.6) as alive:
  for _ in range(4):
    time.sleep(0.3)
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
  began = time.monotonic()
  done = subprocess.run(
    [sys.executable, "-c", code],
    env=os.environ | {"PYTHONPATH": str(runs.ROOT)},
    capture_output=True,
    text=True,
    timeout=50,
  )
  return done, time.monotonic() - began


def test_a_stuck_process_ends_with_stacks():
  done, seconds = run(STUCK)
  assert done.returncode == 76 and seconds < 10
  assert done.stdout == "was alive\n"  # 1.2 s in all, 0.3 s at a time
  assert "nothing has moved for 0.6 s (train.stall_seconds)" in done.stderr
  assert "in reading_a_dead_disk" in done.stderr


def test_python_blocked_in_c_ends_as_well():
  # A regular expression holds the interpreter: no thread of ours can run.
  code = STUCK.replace("time.sleep(60)", 're.match("(a+)+b", "a" * 40)')
  code = code.replace("import sys", "import re, sys").replace(
    "watchdog\n", "watchdog\nwatchdog._LATER = 0.4\n", 1
  )
  done, seconds = run(code)
  assert done.returncode == 1 and seconds < 20
  assert "in reading_a_dead_disk" in done.stderr


def test_a_watch_ends_with_its_block():
  done, _ = run(
    "import time\nfrom xpo_jax import watchdog\n"
    "with watchdog.watching(0.3): pass\n"
    "with watchdog.watching(0) as alive: alive()\n"
    "time.sleep(1)\nprint('ended')"
  )
  assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")


def test_a_crash_in_c_shows_stacks():
  done, _ = run(CRASH)
  assert done.returncode == -6 and "in deep_in_c" in done.stderr
