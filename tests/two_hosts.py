"""`xpo` on two processes that are one run, as on two hosts."""

import socket
import subprocess
import sys

from tests import runs

SCRIPT = """
import sys
from tests.online import scripted
scripted.patched()
from xpo_jax import cli
sys.exit(cli.main())
"""


def start(*args: str, cache, log, number=0, told="", **more: str):
  """Runs `xpo ARGS` to the end: [(exit code, lines of stderr)] of the two.

  `tests.online.scripted` writes what a process was asked to `log`.0 and
  `log`.1; process `number` breaks where it is `told` to, by SIGKILL.
  """
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  own = [
    subprocess.Popen(
      [sys.executable, "-c", SCRIPT, *args],
      env=runs.environment(
        cache,
        XPO_TEST_LOG=f"{log}.{n}",
        XPO_TEST_BREAK=told if n == number else "",
        XPO_TEST_KILL="1",
        JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
        JAX_NUM_PROCESSES="2",
        JAX_PROCESS_ID=str(n),
        **more,
      ),
      cwd=runs.ROOT,
      text=True,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
    )
    for n in range(2)
  ]
  try:
    found = [runs.finish(process) for process in own]
  finally:
    for process in own:
      process.kill()
  return [(code, err) for code, _, err in found]
