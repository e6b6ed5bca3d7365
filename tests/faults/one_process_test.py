"""One process, broken in every way: nothing lost, nothing changed.

The same tests twice: a few times in CI (slow), often by `make faults`.
"""

import collections
import pathlib
import random
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from tests import runs
from tests.faults.conftest import STEPS
from tests.sealing_test import corrupt
from xpo_jax import sealing, stored


def times(few: int, many: int):
  """A test that runs `few` times in CI and `many` by `make faults`."""
  return pytest.mark.parametrize(
    "count",
    [
      pytest.param(few, marks=pytest.mark.slow),
      pytest.param(many, marks=pytest.mark.faults),
    ],
  )


def newest(run: pathlib.Path) -> int:
  """The newest step of a run folder; every step in it must be intact."""
  folder = run / "checkpoints"
  step, wrong = sealing.newest_intact(folder)
  assert not wrong
  for number in sealing.steps(folder):
    assert sealing.damage(folder / str(number)) == ""
  return step or 0


def phase(run: pathlib.Path, text: str) -> str:
  """What a run was doing when it was stopped."""
  folder = run / "checkpoints"
  if folder.is_dir() and any(p.name[0] == "." for p in folder.iterdir()):
    return "saving"
  if not (run / "metrics.jsonl").exists() and "Checks" not in text:
    return "starting"
  return "stepping" if newest(run) < STEPS else "evaluating"


@times(3, 100)
def test_sigkill_at_random_instants(place, figures, count):
  noise, phases = random.Random(count), collections.Counter()
  chain, kills, ends, whole = 0, 0, 0, 1.1 * place.seconds
  while kills < count or ends == 0:
    name = f"killed-{count}-{chain}"
    run, before = place.folder / name, newest(place.folder / name)
    began, wait = time.monotonic(), noise.uniform(0, whole)
    process = place.start(name)
    saving = lambda: any((run / "checkpoints").glob(".saving-*"))
    while process.alive() and time.monotonic() - began < wait:
      if kills % 4 == 1 and saving():  # these are aimed
        break
      time.sleep(0.002)
    if kills < count and process.alive():
      process.send(signal.SIGKILL)
    code = process.wait()
    text = process.text()
    after = newest(run)
    assert after >= before, "a committed step was lost"
    resumed = f"resumed at step {before} of {STEPS}"
    stepped = (run / "metrics.jsonl").exists() and "elapsed" in text
    assert not (before and stepped) or resumed in text
    if code == -signal.SIGKILL:
      kills += 1
      phases[phase(run, text)] += 1
      continue
    assert code == 0, text
    place.same(name)
    shutil.rmtree(run)
    chain, ends = chain + 1, ends + 1
  figures(
    f"SIGKILL: {kills} at random instants {dict(phases)}, {ends} runs ended "
    "with the bits of the unbroken one, 0 committed steps lost"
  )


@times(2, 20)
def test_sigterm_at_random_instants(place, figures, count):
  noise, slowest, phases = random.Random(count), 0.0, collections.Counter()
  chain, terms, ends = 0, 0, 0
  while terms < count or ends == 0:
    name = f"stopped-{count}-{chain}"
    run = place.folder / name
    process, wait = place.start(name), noise.uniform(0.3, place.seconds)
    began = time.monotonic()
    while process.alive() and time.monotonic() - began < wait:
      time.sleep(0.01)
    if terms < count and process.alive():
      process.send(signal.SIGTERM)
      if terms % 2:
        process.send(signal.SIGTERM)
      sent = time.monotonic()
    code = process.wait()
    text = process.text()
    if code == 0:
      place.same(name)
      shutil.rmtree(run)
      chain, ends = chain + 1, ends + 1
      continue
    assert code == 75, text
    terms += 1
    slowest = max(slowest, time.monotonic() - sent)
    assert "start the same command again" in text
    if "saved at step" in text:
      step = int(text.split("saved at step ")[1].split()[0])
      assert newest(run) == step == runs.lines(run)[-1]["step"]
      phases["between steps"] += 1
    else:
      phases["starting or ending"] += 1
  assert slowest < 60
  figures(
    f"SIGTERM: {terms} at random instants {dict(phases)}, all exit 75, slowest "
    f"{slowest:.1f} s; {ends} runs ended with the bits of the unbroken one"
  )


@pytest.mark.slow
def test_sigterm_in_a_save_and_in_a_compilation(place):
  run = place.folder / "aimed"
  # Programs of its own: nothing is found compiled.
  cold = {"env": {"XPO_CACHE": str(place.folder / "cold")}}
  process = place.start("aimed", **cold)
  process.until(lambda: "Checks before step 1" in process.text())
  process.send(signal.SIGTERM)
  assert process.wait() == 75, process.text()
  assert newest(run) == 1 and "saved at step 1 of" in process.text()
  folder = run / "checkpoints"
  process = place.start("aimed", **cold)
  process.until(lambda: list(folder.glob(".saving-*")))
  process.send(signal.SIGTERM)
  assert process.wait() == 75, process.text()
  step = newest(run)
  assert f"saved at step {step} of {STEPS}" in process.text()
  # Ctrl-C saves as well; its code is the shell's.
  process = place.start("aimed")
  lines = len(runs.lines(run))
  process.until(lambda: len(runs.lines(run)) > lines)
  process.send(signal.SIGINT)
  assert process.wait() == 130
  assert f"interrupted; saved at step {newest(run)} of" in process.text()
  assert newest(run) > step
  assert place.start("aimed").wait() == 0
  place.same("aimed")


@times(10, 200)
def test_damaged_checkpoints_are_never_loaded(place, figures, count):
  noise, kinds = random.Random(count), collections.Counter()
  run = place.folder / f"damaged-{count}"
  steps = sealing.steps(place.unbroken / "checkpoints")
  older, newer = (place.unbroken / "checkpoints" / str(s) for s in steps[-2:])
  wanted = stored.restore_params(place.unbroken, steps[-2])
  wanted = jax.tree_util.tree_leaves_with_path(wanted)
  shutil.copytree(place.unbroken, run)
  step = run / "checkpoints" / newer.name
  for _ in range(count):
    shutil.rmtree(step)
    shutil.copytree(newer, step)
    kinds[corrupt_real(noise, step, older)] += 1
    chosen = stored.choose(run)
    assert chosen == steps[-2]
    found = stored.restore_params(run, chosen)
    for (_, a), (path, b) in zip(
      jax.tree_util.tree_leaves_with_path(found), wanted, strict=True
    ):
      assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), path
  # A run resumed over a damaged step makes the same step again.
  process = place.start(run.name)
  assert process.wait() == 0, process.text()
  assert f"falling back to step {steps[-2]}" in process.text()
  place.same(run.name)
  shutil.rmtree(run)
  figures(
    f"damage: {count} of {len(kinds)} kinds, 0 changed bytes loaded, all fell "
    f"back to the step before {dict(kinds)}"
  )


def corrupt_real(noise, step, older) -> str:
  """`corrupt`, of the kinds that need no certain names."""
  while True:
    try:
      return corrupt(noise, step, older)
    except FileNotFoundError:  # a swap of names that orbax does not use
      continue


@pytest.mark.slow
def test_a_disk_that_takes_no_more(place, figures):
  run = place.folder / "full"
  process = place.start("full")
  process.until(lambda: sealing.steps(run / "checkpoints"))
  process.send(signal.SIGTERM)
  assert process.wait() == 75
  step = newest(run)
  process = place.start("full", file_bytes=200_000)
  assert process.wait() == 74, process.text()
  text = process.text()
  assert text.count("a checkpoint could not be written") == 2
  last = text.splitlines()[-1]
  assert last.startswith("error: ") and "free space or choose" in last
  assert "Traceback" not in text and newest(run) == step
  assert place.start("full").wait() == 0
  place.same("full")
  figures("full disk: exit 74, the step before intact, same bits afterwards")


@times(1, 10)
def test_two_writers(place, figures, count):
  for n in range(count):
    name = f"doubled-{count}-{n}"
    pair = [place.start(name, log=place.folder / f"{n}{k}.log") for k in "ab"]
    began = time.monotonic()
    while all(p.alive() for p in pair):
      time.sleep(0.01)
    seconds = time.monotonic() - began
    loser, winner = sorted(pair, key=lambda p: p.alive())
    assert loser.wait() == 73 and loser.text().count("\n") == 1
    assert "another process writes this run (process " in loser.text()
    winner.send(signal.SIGTERM)
    assert winner.wait() == 75, winner.text()
    newest(place.folder / name)
  figures(f"two writers: {count} times one of them exits 73 ({seconds:.1f} s)")
