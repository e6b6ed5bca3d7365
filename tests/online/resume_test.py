"""A run that ends anywhere goes on to the same bits, and asks nothing twice."""

import contextlib
import dataclasses
import json
import signal

import jax
import pytest

from tests import runs
from tests.online import scripted
from xpo_jax import checkpoint, train
from xpo_jax.errors import Exit, XpoError
from xpo_jax.online import journal, loop, trunk

pytestmark = pytest.mark.slow

# A rollout of 8 prompts is 4 steps: 2 minibatches, 2 epochs.
PPO = {
  **scripted.RUN,
  "rollout__prompts": 8,
  "rollout__epochs": 2,
  "batch__prompts": 4,
  "method__kl_target": 6.0,
  "train__steps": 8,
  "train__save_every": 1,
  "train__eval_every": 4,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cache")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XPO_CACHE", str(folder))
    yield folder


@dataclasses.dataclass
class Runner:
  """Starts one run folder over and over, in this process."""

  folder: object
  method: str
  changes: dict

  @property
  def run(self):
    return self.folder / "run"

  def start(self, told="", ends=None, poll=None):
    """`told` is where it breaks; SIGTERM comes after step `ends`, or at a poll.

    Returns the number of polls.
    """
    polls, done, real = [], [None], loop._update

    def asked(number):
      polls.append(number)
      here = (number == poll, done[0] == ends)[ends is not None]
      return signal.SIGTERM if here else 0

    def update(own, state, *more):
      done[0] = int(state.step) + 1
      return real(own, state, *more)

    config = runs.make(self.folder, self.method, **self.changes)
    with pytest.MonkeyPatch.context() as patch:
      patch.setenv(scripted.LOG, str(self.folder / "log"))
      patch.setenv(scripted.BREAK, told)
      scripted.patched(patch.setattr)
      stop = lambda: contextlib.nullcontext(asked)
      patch.setattr(train.stopping, "after_step", stop)
      patch.setattr(loop, "_update", update)
      train.run(config, self.run, jax.devices()[:1])
    return len(polls)

  def asked(self):
    with pytest.MonkeyPatch.context() as patch:
      patch.setenv(scripted.LOG, str(self.folder / "log"))
      return scripted.asked()

  def texts(self):
    files = sorted((self.run / "rollouts").glob("*.jsonl"))
    return {path.name: path.read_text() for path in files}


def same(found: Runner, wanted: Runner):
  runs.same_bits(runs.bits(found.run), runs.bits(wanted.run))
  assert runs.lines(found.run) == runs.lines(wanted.run)
  assert found.texts() == wanted.texts()
  summaries = [
    json.loads((r.run / "summary.json").read_text()) for r in (found, wanted)
  ]
  held = [s["held_out"] for s in summaries]
  assert held[0] == held[1]


def made(tmp_path_factory, method, changes):
  folder = tmp_path_factory.mktemp(method)
  found = Runner(folder, method, changes)
  found.start()
  return found


@pytest.fixture(scope="module")
def ppo(cache, tmp_path_factory):
  """Two rollouts and three evaluations, unbroken."""
  return made(tmp_path_factory, "ppo", PPO)


def test_an_unbroken_run_asks_once_a_draw(ppo):
  """Evaluation (10 prompts: two draws), rollout, evaluation, and again."""
  (asked,) = ppo.asked()
  assert len(asked) == len(set(asked)) == 8
  lines = [x for x in runs.lines(ppo.run) if "loss" in x]
  assert len(lines) == 8 and sorted(ppo.texts()) == [
    "000000.jsonl",
    "000001.jsonl",
  ]
  # A rollout's numbers are those of all its steps.
  for line in lines:
    first = lines[(line["step"] - 1) // 4 * 4]
    for name in ("rewards/judge", "kl/k1", "value/explained", "judge/invalid"):
      assert line[name] == first[name]
  assert lines[0]["rewards/judge"] != lines[4]["rewards/judge"]


def test_it_may_break_anywhere(ppo, tmp_path):
  """One run, broken at one place after the other."""
  broken = Runner(tmp_path, "ppo", PPO)
  for told in (
    "scoring:2",  # in the evaluation before the first step
    "sampling:1",  # the first rollout's samples are lost
    "judging:1",
    "scoring:1",  # judged, but nothing is computed from it yet
    "saving:3",  # two steps into the rollout; the third is lost
    "sampling:1",  # in the evaluation after step 4
    "scoring:1",  # of the same, judged
    "judging:2",  # its second draw is judged, the next rollout is not
    "saving:2",
  ):
    with pytest.raises(scripted.Broken):
      broken.start(told)
  broken.start()
  same(broken, ppo)
  (wanted,) = ppo.asked()
  found = [x for start in broken.asked() for x in start]
  assert found == wanted  # each once, in the same order


@pytest.mark.parametrize("step", [2, 4])
def test_it_may_be_stopped_after_any_step(ppo, tmp_path, step):
  stopped = Runner(tmp_path, "ppo", PPO | {"train__save_every": 50})
  with pytest.raises(XpoError, match=f"saved at step {step} of 8") as error:
    stopped.start(ends=step)
  assert error.value.code == Exit.PREEMPTED
  assert checkpoint.saved_steps(stopped.run) == [step]
  if step == 2:  # in the middle of a rollout, of which a bit is lost
    path = journal.file_of(stopped.run, 0, "rollout")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(XpoError, match="0.rollout: missing or not") as error:
      stopped.start()
    assert error.value.code == Exit.CHECKPOINT
    path.write_bytes(whole)
  stopped.start()
  same(stopped, ppo)
  (wanted,) = ppo.asked()
  assert [x for start in stopped.asked() for x in start] == wanted


@pytest.mark.parametrize("save_every", [1, 50])
def test_it_may_be_stopped_inside_a_rollout(ppo, tmp_path, save_every):
  """Samples and verdicts are kept: no start repeats what another has done."""
  changes = PPO | {"train__save_every": save_every}
  stopped, steps = Runner(tmp_path, "ppo", changes), []
  # Polled after the samples, before a slice that the judge has not yet seen,
  # after the verdicts, and after each of four steps.
  for poll in (0, 1, 2, 2 + 4, 1):
    with pytest.raises(XpoError, match="stopped by SIGTERM") as error:
      stopped.start(poll=poll)
    assert error.value.code == Exit.PREEMPTED
    steps.append(checkpoint.saved_steps(stopped.run)[-1:])
  assert steps == [[], [], [], [4], [4]]
  stopped.start()
  same(stopped, ppo)
  (wanted,) = ppo.asked()
  assert [x for start in stopped.asked() for x in start] == wanted


def test_a_finished_run_started_again_asks_nothing(ppo):
  before = runs.lines(ppo.run), ppo.texts()
  ppo.start()
  summary = json.loads((ppo.run / "summary.json").read_text())
  assert (runs.lines(ppo.run), ppo.texts()) == before
  first, again = ppo.asked()
  assert len(first) == 8 and again == []
  assert summary["steps"] == 8 and "reward" in summary["held_out"]


FROZEN = PPO | {"model__trained_blocks": 1}


def test_states_of_frozen_blocks_are_computed_once_a_rollout(
  cache, tmp_path, monkeypatch
):
  """Four steps and two models read them; a resumed run makes them again."""
  made, real = [], trunk.states
  for name in ("kept", "never", "broken"):
    (tmp_path / name).mkdir()
  count = lambda *args: made.append(args) or real(*args)
  monkeypatch.setattr(trunk, "states", count)
  kept = Runner(tmp_path / "kept", "ppo", FROZEN)
  kept.start()
  assert len(made) == 2 + 3 * 2  # rollouts, and two draws an evaluation
  broken = Runner(tmp_path / "broken", "ppo", FROZEN)
  for told in ("saving:2", "saving:4"):  # in the first rollout, the second
    with pytest.raises(scripted.Broken):
      broken.start(told)
  broken.start()
  same(broken, kept)
  never = Runner(tmp_path / "never", "ppo", FROZEN)
  monkeypatch.setattr(trunk, "make", lambda model: None)
  never.start()
  for found, wanted in zip(
    runs.lines(kept.run), runs.lines(never.run), strict=True
  ):
    assert found == pytest.approx(wanted, rel=1e-4, abs=1e-5)


AHEAD = PPO | {
  "rollout__ahead": 1,
  "rollout__epochs": 1,
  "train__steps": 8,
  "train__eval_every": 0,
}
AHEAD.pop("method__kl_target")


@pytest.fixture(scope="module")
def ahead(cache, tmp_path_factory):
  """Four rollouts of two steps, each drawn one rollout early."""
  return made(tmp_path_factory, "grpo", AHEAD)


def test_samples_drawn_ahead_are_the_earlier_policys(ahead):
  steps = [x for x in runs.lines(ahead.run) if "loss" in x]
  gaps = [x["sampler/gap"] for x in steps]
  assert max(gaps[:2]) < 1e-5 and min(gaps[2:]) > 1e-5
  stale = [x["sampler/staleness"] for x in steps]
  assert stale == [0, 1, 2, 3, 2, 3, 2, 3]


@pytest.mark.parametrize("step", [3, 4])
def test_a_run_ahead_of_itself_goes_on(ahead, tmp_path, step):
  """In the middle of its second rollout, and at the end of it."""
  stopped = Runner(tmp_path, "grpo", AHEAD)
  with pytest.raises(XpoError, match=f"saved at step {step} of 8"):
    stopped.start(ends=step)
  path = journal.file_of(stopped.run, 2, "0.samples")
  away = path.with_name("away")
  path.rename(away)
  with pytest.raises(XpoError, match="000002.0.samples: missing") as error:
    stopped.start()
  assert error.value.code == Exit.CHECKPOINT
  away.rename(path)
  with pytest.raises(scripted.Broken):
    stopped.start("judging:1")
  stopped.start()
  same(stopped, ahead)
  (wanted,) = ahead.asked()
  assert [x for start in stopped.asked() for x in start] == wanted


KILLED = """
import sys
from tests.online import scripted
scripted.patched()
from xpo_jax import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_killed_process_goes_on(cache, tmp_path):
  """kill -9 from inside, where it hurts; nothing of the process is left."""
  found = {}
  for name, places in (
    ("whole", [""]),
    ("killed", ["sampling:1", "judging:2", "saving:2", ""]),
  ):
    folder = tmp_path / name
    folder.mkdir()
    changes = PPO | {"data__eval_source": ""}
    path = runs.save(
      runs.make(folder, "ppo", **changes), folder / "config.json"
    )
    for told in places:
      env = runs.environment(
        cache,
        XPO_TEST_LOG=str(folder / "log"),
        XPO_TEST_BREAK=told,
        XPO_TEST_KILL="1",
      )
      args = ("train", f"--config={path}", f"--workdir={folder / 'run'}")
      code, _, err = runs.script(KILLED, *args, env=env)
      assert code == (-signal.SIGKILL if told else 0), err[-5:]
    found[name] = Runner(folder, "ppo", changes)
  same(found["killed"], found["whole"])
  (wanted,) = found["whole"].asked()
  assert [x for start in found["killed"].asked() for x in start] == wanted
