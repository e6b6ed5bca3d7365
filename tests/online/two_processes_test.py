"""Two processes of one on-policy run, and one judge."""

import signal

import pytest

from tests import runs, two_hosts
from tests.online import scripted
from xpo_jax.errors import Exit

pytestmark = pytest.mark.slow

CHANGES = {
  **scripted.RUN,
  "train__steps": 3,
  "train__save_every": 1,
  "train__eval_every": 3,
}


class Pair:
  """Starts one run folder over and over, on two processes."""

  def __init__(self, folder, cache, **changes):
    folder.mkdir()
    self.folder, self.cache, self.run = folder, cache, folder / "run"
    config = runs.make(folder, "rloo", **CHANGES | changes)
    self.config = runs.save(config, folder / "config.json")

  def start(self, told="", number=0):
    """Process `number` breaks where it is told to; [(code, lines)]."""
    return two_hosts.start(
      "train",
      f"--config={self.config}",
      f"--workdir={self.run}",
      cache=self.cache,
      log=self.folder / "log",
      told=told,
      number=number,
      XPO_JUDGE_URL="http://127.0.0.1:9/v1",  # nobody listens
    )

  def asked(self, number):
    """Digests of all starts of a process."""
    with pytest.MonkeyPatch.context() as patch:
      patch.setenv(scripted.LOG, f"{self.folder}/log.{number}")
      return [x for start in scripted.asked() for x in start]

  def texts(self):
    files = sorted((self.run / "rollouts").glob("*.jsonl"))
    return {path.name: path.read_text() for path in files}


def test_every_question_is_asked_once(tmp_path):
  """Also by a run that is killed where a verdict is there and no update."""
  cache = tmp_path / "cache"
  whole = Pair(tmp_path / "whole", cache)
  assert [code for code, _ in whole.start()] == [0, 0]
  wanted = whole.asked(0)
  # Three rollouts, two evaluations of ten prompts, eight at a time.
  assert len(wanted) == len(set(wanted)) == 3 + 2 * 2
  assert whole.asked(1) == []
  killed = Pair(tmp_path / "killed", cache)
  # In the first rollout, after its verdict; in the evaluation at the end.
  for told, number in (("scoring:3", 0), ("scoring:4", 1)):
    codes = [code for code, _ in killed.start(told, number)]
    assert codes[number] == -signal.SIGKILL and 0 not in codes
  assert [code for code, _ in killed.start()] == [0, 0]
  assert killed.asked(0) == wanted and killed.asked(1) == []
  runs.same_bits(runs.bits(killed.run), runs.bits(whole.run))
  assert runs.lines(killed.run) == runs.lines(whole.run)
  assert killed.texts() == whole.texts()


def test_what_ends_one_ends_both(tmp_path):
  """A judge that raises; an endpoint that is down, which is storage's code."""
  cache = tmp_path / "cache"
  for name, code, words, changes in (
    ("raises", Exit.USAGE, "scripted:refuse raised ValueError", {}),
    (
      "down",
      Exit.STORAGE,
      "remote judge: no answer from http://127.0.0.1:9/v1",
      {"judge__name": "remote_rating", "judge__source": "any"},
    ),
  ):
    changes = {"judge__source": "tests.online.scripted:refuse"} | changes
    pair = Pair(tmp_path / name, cache, train__eval_every=0, **changes)
    (first, mine), (second, other) = pair.start()
    assert (first, second) == (code, code), (mine, other)
    told = [
      [x for x in lines if x.startswith("error: ")] for lines in (mine, other)
    ]
    assert told[0] == told[1] and len(told[0]) == 1 and words in told[0][0]
    assert pair.asked(1) == []
