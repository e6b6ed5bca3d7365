"""Runs that are stopped, killed or doubled end with the bits of an unbroken
one. Every run here is a process of its own.
"""

import signal
import time

import numpy as np
import pytest

from tests import runs
from xpo_jax import checkpoint

pytestmark = pytest.mark.slow

STEPS = 100


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder with data, a config and what the unbroken run left."""
  folder = tmp_path_factory.mktemp("resume")
  config = runs.make(
    folder, train__steps=STEPS, train__save_every=10, train__eval_every=30
  )
  runs.save(config, folder / "config.json")
  code, _, err = runs.finish(start(folder, "unbroken"))
  assert code == 0, err
  return folder


def start(folder, name):
  return runs.spawn(
    "train",
    f"--config={folder / 'config.json'}",
    f"--workdir={folder / name}",
    env=runs.environment(folder / "cache"),
  )


def wait_for(process, happened):
  """Polls until it happened; the process must still be alive then."""
  end = time.monotonic() + runs.SECONDS
  while not happened() and process.poll() is None and time.monotonic() < end:
    time.sleep(0.005)
  if process.poll() is not None:
    code, _, err = runs.finish(process)
    raise AssertionError(f"ended too early with {code}: {err}")


def steps_done(run):
  path = run / "metrics.jsonl"
  return path.read_text().count("\n") if path.exists() else 0


def same_as_unbroken(place, name):
  runs.same_bits(runs.bits(place / name), runs.bits(place / "unbroken"))
  assert runs.lines(place / name) == runs.lines(place / "unbroken")
  held = [
    (place / n / "held_out.jsonl").read_text() for n in (name, "unbroken")
  ]
  assert held[0] == held[1]


def test_sigterm_saves_the_step_and_a_second_start_goes_on(place):
  run = place / "stopped"
  process = start(place, "stopped")
  wait_for(process, lambda: steps_done(run) >= 15)
  process.send_signal(signal.SIGTERM)
  process.send_signal(signal.SIGTERM)  # and once more, impatiently
  code, _, err = runs.finish(process)
  assert (code, len(err)) == (75, 1)
  step = checkpoint.saved_steps(run)[-1]
  assert err[0].startswith(f"stopped by SIGTERM, saved at step {step} of")
  assert 15 <= step < STEPS and runs.lines(run)[-1]["step"] == step
  code, out, err = runs.finish(start(place, "stopped"))
  assert code == 0, err
  assert f"resumed at step {step} of {STEPS}" in out
  same_as_unbroken(place, "stopped")


def test_kills_at_any_instant_lose_nothing(place):
  run, noise = place / "killed", np.random.default_rng()
  folder = run / "checkpoints"
  saving = lambda: any("tmp" in p.name for p in folder.glob("*"))
  goals = [
    lambda: steps_done(run) >= 5,  # before the first save
    saving,
    lambda: steps_done(run) >= 40 and noise.random() < 0.1,
  ]
  for goal in goals:
    process = start(place, "killed")
    wait_for(process, goal)
    process.kill()
    assert runs.finish(process)[0] == -signal.SIGKILL
  code, _, err = runs.finish(start(place, "killed"))
  assert code == 0, err
  same_as_unbroken(place, "killed")


def test_a_second_writer_is_turned_away(place):
  with checkpoint.locked(place / "doubled"):
    code, out, err = runs.finish(start(place, "doubled"))
  assert (code, out, len(err)) == (73, "", 1)
  assert "another process writes this run" in err[0]
  assert [p.name for p in (place / "doubled").iterdir()] == [".lock"]
