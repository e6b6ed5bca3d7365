"""Two processes, one of them broken: both end, and go on from the same step."""

import collections
import random
import shutil
import signal
import socket
import time

import numpy as np
import pytest

from tests import runs
from tests.faults.conftest import STEPS
from tests.faults.one_process_test import newest, times

ENDS_WITHIN = 40  # seconds: the heartbeat is 10, this machine may be busy


def start_two(place, name, **more):
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  return [
    place.start(
      name,
      log=place.folder / f"{name}.{number}.log",
      env={
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(number),
        "XPO_JOIN_SECONDS": "20",  # one may be killed before it has come
      },
      **more,
    )
    for number in range(2)
  ]


def end(pair):
  return [process.wait() for process in pair]


@pytest.fixture(scope="module")
def both(place):
  """(seconds, bits, lines) of the unbroken run of two processes."""
  began = time.monotonic()
  assert end(start_two(place, "both")) == [0, 0]
  seconds = 0.6 * (time.monotonic() - began)
  run = place.folder / "both"
  return seconds, runs.bits(run), runs.lines(run)


@times(1, 10)
def test_one_of_two_is_killed(place, both, figures, count):
  seconds, bits, lines = both
  noise, slowest, codes = random.Random(count), 0.0, collections.Counter()
  kills, chain, ends = 0, 0, 0
  while kills < count or not ends:
    name = f"pair-{count}-{chain}"
    run, before = place.folder / name, newest(place.folder / name)
    pair, wait = start_two(place, name), noise.uniform(1, seconds)
    began = time.monotonic()
    while pair[0].alive() and time.monotonic() - began < wait:
      time.sleep(0.01)
    victim = noise.randrange(2)
    if kills < count and pair[victim].alive() and pair[1 - victim].alive():
      pair[victim].send(signal.SIGKILL)
      sent = time.monotonic()
      left = pair[1 - victim]
      code = left.wait(ENDS_WITHIN)
      slowest = max(slowest, time.monotonic() - sent)
      assert code != 0 and pair[victim].wait() == -signal.SIGKILL
      if code not in (73, 74, 75):  # stacks, of our own or of the abort
        assert "most recent call first" in left.text(), left.text()
      kills, codes[code] = kills + 1, codes[code] + 1
      assert newest(run) >= before
      continue
    assert end(pair) == [0, 0], [p.text() for p in pair]
    runs.same_bits(runs.bits(run), bits)
    assert runs.lines(run) == lines
    shutil.rmtree(run)
    chain, ends = chain + 1, ends + 1
  figures(
    f"one of two killed: {kills} times, the other ended after at most "
    f"{slowest:.1f} s with {dict(codes)}; {ends} runs ended with the bits of "
    "the unbroken one, 0 committed steps lost"
  )


@pytest.mark.slow
def test_one_of_two_is_stopped_and_one_goes_on(place, both, figures):
  """SIGSTOP: alive for the system, dead for its peer. SIGTERM. One alone."""
  run = place.folder / "halted"
  pair = start_two(place, "halted")
  pair[0].until(lambda: newest(run) >= 5)
  pair[1].send(signal.SIGSTOP)
  sent = time.monotonic()
  code = pair[0].wait(ENDS_WITHIN)
  seconds = time.monotonic() - sent
  assert code != 0 and "most recent call first" in pair[0].text()
  pair[1].send(signal.SIGKILL)
  pair[1].wait()
  figures(f"one of two stopped: the other ended after {seconds:.1f} s, {code}")
  pair = start_two(place, "halted")
  before = len(runs.lines(run))
  pair[0].until(lambda: len(runs.lines(run)) > before + 3)
  pair[0].send(signal.SIGTERM)
  assert end(pair) == [75, 75], [p.text() for p in pair]
  step = newest(run)
  assert all(f"saved at step {step} of {STEPS}" in p.text() for p in pair)
  # What two processes left, one goes on with: the same rows at every step.
  assert place.start("halted").wait() == 0
  _, bits, lines = both
  (last, found) = runs.bits(run)
  assert last == STEPS
  for name, value in bits[1].items():
    if name.startswith("['params']"):
      np.testing.assert_allclose(found[name], value, atol=1e-3, err_msg=name)
  for line, wanted in zip(runs.lines(run), lines, strict=True):
    assert line["step"] == wanted["step"]
    if "loss" in line:
      assert line["loss"] == pytest.approx(wanted["loss"], rel=0.02, abs=1e-4)


STUCK = """
import sys, time
from xpo_jax import cli
from xpo_jax.data import packing
real = packing.pack_step

def a_disk_that_never_answers(groups, plan, step, *args, **more):
  if step == 4:
    time.sleep(600)
  return real(groups, plan, step, *args, **more)

packing.pack_step = a_disk_that_never_answers
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_stuck_run_ends_with_stacks(place, figures):
  config = runs.make(
    place.folder,
    train__steps=STEPS,
    train__save_every=2,
    train__stall_seconds=30,
  )
  path = runs.save(config, place.folder / "stuck.json")
  run = place.folder / "stuck"
  began = time.monotonic()
  code, _, err = runs.script(
    STUCK,
    "train",
    f"--config={path}",
    f"--workdir={run}",
    env=runs.environment(place.folder / "cache"),
  )
  assert code == 76, err
  assert any("nothing has moved for 30 s" in line for line in err)
  assert any("in a_disk_that_never_answers" in line for line in err)
  assert newest(run) == 4
  seconds = time.monotonic() - began
  figures(f"stuck data: exit 76 with stacks, {seconds:.0f} s after the start")
