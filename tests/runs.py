"""Small runs on rows of our own: configs, files and `xpo` in a process."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp

from xpo_jax import checkpoint, config

ROOT = pathlib.Path(__file__).parents[1]
COLOURS = ("red", "blue", "green", "black", "white", "grey")
THINGS = ("boat", "house", "tree", "stone", "river", "cloud", "lamp")
SECONDS = 240  # no subprocess of a test lives longer


def pair(n: int) -> dict:
  colour, thing = COLOURS[n % 6], THINGS[n % 7]
  return {
    "prompt": f"Row {n}: name the {thing}.",
    "chosen": f" The {thing} is {colour}, I think.",
    "rejected": f" No {thing} here; ask {n} others.",
  }


def write(path: pathlib.Path, rows) -> pathlib.Path:
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def make(folder: pathlib.Path, method: str = "dpo", **changes):
  """A config of 6 steps on 24 pairs of `folder`, 10 more held out.

  `changes` are dotted keys with "__" for ".".
  """
  c = config.base("tiny").unlock()
  c.method = config.method(method)
  c.data.source = str(write(folder / "train.jsonl", map(pair, range(24))))
  c.data.eval_source = str(
    write(folder / "held.jsonl", map(pair, range(30, 40)))
  )
  c.batch.prompts = 8
  c.train.steps, c.train.epochs = 6, 0.0
  c.train.save_every, c.train.eval_every = 2, 3
  flat = {k.replace("__", "."): v for k, v in changes.items()}
  c.update_from_flattened_dict(flat)
  return c.lock()


def save(c, path: pathlib.Path) -> str:
  """Writes a config where `--config` can read it."""
  path.write_text(config.to_json(c))
  return str(path)


def environment(cache: pathlib.Path, **more: str) -> dict[str, str]:
  clean = {k: v for k, v in os.environ.items() if not k.startswith("XPO_")}
  return clean | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "",
    "PYTHONPATH": str(ROOT),
    "XPO_CACHE": str(cache),
    **more,
  }


def spawn(*args: str, env: dict[str, str]) -> subprocess.Popen:
  """`xpo ARGS` as a process of its own."""
  return _spawn("-m", "xpo_jax.cli", *args, env=env)


def script(code: str, *args: str, env: dict[str, str]):
  """Runs Python code with arguments; returns as `finish`."""
  return finish(_spawn("-c", code, *args, env=env))


def _spawn(*args: str, env: dict[str, str]) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, *args],
    env=env,
    cwd=ROOT,
    text=True,
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )


def finish(process: subprocess.Popen) -> tuple[int, str, list[str]]:
  """(exit code, stdout, lines of stderr); killed if it takes too long."""
  try:
    out, err = process.communicate(timeout=SECONDS)
  finally:
    process.kill()
  return process.returncode, out, err.splitlines()


def xpo(*args: str, env: dict[str, str]) -> tuple[int, str, list[str]]:
  return finish(spawn(*args, env=env))


def lines(run: pathlib.Path) -> list[dict]:
  """metrics.jsonl without what depends on the clock."""
  text = (run / "metrics.jsonl").read_text()
  return [
    {k: v for k, v in json.loads(line).items() if not k.startswith("perf/")}
    for line in text.splitlines()
  ]


def bits(run: pathlib.Path) -> tuple[int, dict[str, np.ndarray]]:
  """(step, every number of the newest checkpoint by its path)."""
  step = checkpoint.saved_steps(run)[-1]
  folder = (run / "checkpoints" / str(step) / "state").absolute()
  with ocp.PyTreeCheckpointer() as reader:
    tree = reader.metadata(folder).item_metadata.tree
    whole = lambda _: ocp.RestoreArgs(restore_type=np.ndarray)
    found = reader.restore(folder, restore_args=jax.tree.map(whole, tree))
  leaves = jax.tree_util.tree_leaves_with_path(found)
  return step, {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def same_bits(one, other) -> None:
  (step, numbers), (wanted, expected) = one, other
  assert step == wanted and numbers.keys() == expected.keys()
  for name, value in expected.items():
    assert numbers[name].tobytes() == value.tobytes(), name
