"""A disk that is full says so once a save, and nothing else does."""

import subprocess
import sys

from tests import runs

SCRIPT = """
import gc, pathlib, resource, sys
import jax.numpy as jnp, numpy as np, orbax.checkpoint as ocp
from xpo_jax import hushed
from xpo_jax.saver import Saver

if sys.argv[2] == "hushed":
  hushed.libraries(process=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
noise = np.random.default_rng(0)
tree = {f"k{i}": jnp.array(noise.normal(size=(100, 300))) for i in range(40)}
args = ocp.args.Composite(state=ocp.args.StandardSave(tree))
saver = Saver(pathlib.Path(sys.argv[1]), 2, 1)
for step in (1, 2):
  saver.write(step, args, {})
  saver.wait()
del saver


# As a write that had not begun when its loop closed: with orbax's, a race.
async def write_fragment():
  pass


write_fragment()
gc.collect()
"""


def err_out(folder, how):
  command = [sys.executable, "-c", SCRIPT, str(folder), how]
  done = subprocess.run(
    command,
    env=runs.environment(folder / "cache"),
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  return done.stderr, done.stdout


def test_a_full_disk_says_so_once_a_save(tmp_path):
  # The noise is real: mostly a traceback a pending write, and always this.
  err, out = err_out(tmp_path, "as it is")
  assert out.count("could not be written") == 2
  assert "write_fragment' was never awaited" in err
  err, out = err_out(tmp_path, "hushed")
  assert out.count("could not be written") == out.count("\n") == 2
  assert err == ""
