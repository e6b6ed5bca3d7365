"""One forker and one unbroken run for all faults."""

import pathlib
import time

import pytest

from tests import runs
from tests.faults.farm import Farm

STEPS = 40


class Place:
  """A folder with data, a config, and what the unbroken run left."""

  def __init__(self, farm: Farm, folder: pathlib.Path):
    self.farm, self.folder = farm, folder
    self.unbroken = folder / "unbroken"
    self.seconds = 0.0
    self.config = runs.save(
      runs.make(
        folder,
        train__steps=STEPS,
        train__save_every=5,
        train__eval_every=15,
        train__stall_seconds=60,
      ),
      folder / "config.json",
    )

  def start(self, name: str, *flags: str, **more):
    argv = ["train", f"--config={self.config}", *flags]
    argv.append(f"--workdir={self.folder / name}")
    more = {"log": self.folder / f"{name}.log"} | more
    return self.farm.start(*argv, **more)

  def same(self, name: str) -> None:
    """A run that has ended is the unbroken one, to the bit."""
    run = self.folder / name
    runs.same_bits(runs.bits(run), runs.bits(self.unbroken))
    assert runs.lines(run) == runs.lines(self.unbroken)
    held = [(r / "held_out.jsonl").read_text() for r in (run, self.unbroken)]
    assert held[0] == held[1]


@pytest.fixture(scope="session")
def place(tmp_path_factory):
  folder = tmp_path_factory.mktemp("faults")
  farm = Farm(runs.environment(folder / "cache"))
  try:
    found = Place(farm, folder)
    began = time.monotonic()
    run = found.start("unbroken")
    assert run.wait() == 0, run.text()
    # Of a run whose programs are compiled, about.
    found.seconds = 0.6 * (time.monotonic() - began)
    yield found
  finally:
    farm.close()


@pytest.fixture
def figures(capsys):
  """Prints a line of figures, for the record, also when a test passes."""

  def show(text: str):
    with capsys.disabled():
      print(f"\n{text}")

  return show
