"""A whole on-policy run of the tiny model, in this process."""

import contextlib
import json
import math
import types

import jax
import numpy as np
import pytest

from tests import runs
from xpo_jax import checkpoint, judge_config, train
from xpo_jax.online import loop, rollout, tools

STEPS, P, K, NEW = 6, 8, 4, 12
ONE = {
  "rollout__completions": K,
  "data__max_completion_length": NEW,
  "data__max_prompt_length": 32,
  "batch__row_length": 128,
  "judge__name": "length",
  "judge__source": "2-4",
  "train__eval_every": 2,
}

HOT = {"rollout__temperature": 0.7, "seed": 1}


def start(folder, method="rloo", **changes):
  """(run folder, summary) of a run on one device."""
  config = runs.make(folder, method, **ONE | changes)
  summary = train.run(config, folder / "run", jax.devices()[:1])
  return folder / "run", summary


@contextlib.contextmanager
def compiled():
  """Names of all programs, in the order in which they are compiled."""
  seen = []

  def note(event, _, fun_name="", **__):
    if event.endswith("backend_compile_duration"):
      seen.append(fun_name)

  jax.monitoring.register_event_duration_secs_listener(note)
  try:
    yield seen
  finally:
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XPO_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield


@pytest.fixture(scope="module")
def ran(cache, tmp_path_factory):
  """Six rollouts of RLOO, four evaluations: (folder, summary, programs).

  At another temperature than 1, which sampler and loss must share. Programs
  are those compiled before the first rollout, the second, ... In the first two
  rollouts of this seed no draw is nearer than 2e-6 to the edge between two
  tokens, 100 times the rounding by which two layouts of slots differ; with seed
  0 one is at 2e-8, on either side of it.
  """
  counts, make = [], rollout.make
  with compiled() as seen, pytest.MonkeyPatch.context() as patch:

    def counted(*args):
      counts.append(len(seen))
      return make(*args)

    patch.setattr(rollout, "make", counted)
    run, summary = start(tmp_path_factory.mktemp("rloo"), **HOT)
    counts.append(len(seen))
    return run, summary, [seen[a:] for a in counts]


def texts(run, number):
  lines = (run / "rollouts" / f"{number:06d}.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def by_words(text):
  """2-4 words are worth 1; the share that is missing or too much is lost."""
  n = len(text.split())
  return n / 2 if n < 2 else max(0.0, 1 - max(0, n - 4) / 4)


def test_the_metrics_are_those_of_the_texts(ran):
  run, summary, _ = ran
  steps = [line for line in runs.lines(run) if "loss" in line]
  assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
  seen = []
  for number, line in enumerate(steps):
    rows = texts(run, number)
    assert len(rows) == P and all(len(r["completions"]) == K for r in rows)
    scores = np.array([r["scores"] for r in rows])
    wanted = [[by_words(t) for t in r["completions"]] for r in rows]
    np.testing.assert_allclose(scores, wanted, atol=1e-12)
    assert line["rewards/judge"] == pytest.approx(scores.mean(), abs=1e-9)
    assert line["rewards/judge_std"] == pytest.approx(scores.std(), abs=1e-9)
    assert line["rewards/shaped"] == line["rewards/judge"]
    assert line["judge/scored"] == line["prompts/used"] == 1
    assert line["judge/invalid"] == 0
    ended = np.mean([r["ended"] for r in rows])
    assert line["completions/ended"] == pytest.approx(ended)
    assert 1 <= line["completions/tokens"] <= NEW
    assert line["optimizer/skipped"] == 0 and math.isfinite(line["loss"])
    seen += [r["prompt"] for r in rows]
  prompts = [runs.pair(n)["prompt"] for n in range(24)]
  assert sorted(seen[:24]) == sorted(seen[24:]) == sorted(prompts)
  assert seen[:24] != seen[24:]
  last = {k: v for k, v in summary["metrics"].items() if "perf/" not in k}
  assert last == {k: v for k, v in steps[-1].items() if k != "step"}


def test_sampler_and_trainer_agree(ran):
  steps = [line for line in runs.lines(ran[0]) if "loss" in line]
  assert max(line["sampler/gap"] for line in steps) < 1e-5
  assert steps[0]["kl/k1"] == pytest.approx(0, abs=1e-4)
  assert steps[-1]["kl/k3"] > 1e-3  # it has moved


def test_the_time_is_accounted_for(ran):
  lines = (ran[0] / "metrics.jsonl").read_text().splitlines()
  for line in map(json.loads, lines):
    if "loss" in line:
      parts = ("sampling", "judging", "scoring", "update")
      assert all(line[f"perf/seconds_{n}"] > 0 for n in parts)


def test_held_out_prompts(ran):
  run, summary, _ = ran
  found = [line for line in runs.lines(run) if "eval/reward" in line]
  assert [line["step"] for line in found] == [0, 2, 4, 6]
  assert found[0]["eval/kl/k1"] == pytest.approx(0, abs=1e-4)
  last = {k.removeprefix("eval/"): v for k, v in found[-1].items()}
  assert last.pop("step") == 6 and last == summary["held_out"]
  assert {"reward", "kl/k1", "tokens", "ended", "distinct_2"} <= last.keys()
  assert 0 <= last["reward"] <= 1 and 0 < last["tokens"] <= NEW


def test_nothing_is_compiled_anew_once_all_has_run(ran):
  """The first evaluation comes before the first rollout."""
  _, _, programs = ran
  assert len(programs) == STEPS + 1 and len(programs[0]) > 3
  assert programs[2] == []


def test_what_stays_on_the_disk(ran):
  """All texts, and the other files of what a checkpoint could go back to."""
  run, summary, _ = ran
  left = sorted(p.name for p in (run / "rollouts").iterdir())
  assert [n for n in left if n.endswith(".jsonl")] == [
    f"{n:06d}.jsonl" for n in range(STEPS)
  ]
  oldest = checkpoint.saved_steps(run)[0]
  assert summary["steps"] == checkpoint.saved_steps(run)[-1] == STEPS
  for name in left:
    if name.startswith("e"):
      assert int(name[1:7]) >= oldest
    elif not name.endswith(".jsonl"):
      assert int(name[:6]) >= oldest
    assert not name.endswith(".part")
  assert summary["stopped"] == "" and summary["method"] == "rloo"


def test_a_skipped_step_leaves_the_average_alone():
  """Not finite: like parameters and moments it stays as it is, bit by bit."""
  state = types.SimpleNamespace(
    params={"policy": np.float32(3.0)}, ema_params=np.float32(1.0)
  )
  state.replace = lambda **new: types.SimpleNamespace(**vars(state) | new)
  average = lambda ema, policy: 0.5 * ema + 0.5 * policy
  after = lambda skipped: loop._averaged(
    state, average, {"optimizer/skipped": skipped}
  )
  assert after(0.0).ema_params == 2.0
  assert after(1.0) is state
  state.ema_params = None
  assert after(0.0) is state


@pytest.mark.slow
@pytest.mark.parametrize(
  "method, changes",
  [
    ("rloo", {}),
    ("ppo", {"rollout__prompts": 16, "rollout__slots": 6, "train__steps": 4}),
  ],
)
def test_one_seed_gives_one_run(cache, tmp_path, method, changes):
  found = []
  for name in ("one", "two", "other"):
    (tmp_path / name).mkdir()
    more = {"seed": 5} if name == "other" else {}
    run, _ = start(tmp_path / name, method, **changes | more)
    found.append((runs.bits(run), runs.lines(run), texts(run, 1)))
  (bits, lines, first), (again, same, second), (_, unlike, third) = found
  runs.same_bits(again, bits)
  assert same == lines and second == first
  assert unlike != lines and third != first


@pytest.mark.slow
def test_slots_change_nothing(ran, tmp_path):
  """One rollout and its update; the second rollout shows the update."""
  run, _, _ = ran
  other, _ = start(tmp_path, **HOT, rollout__slots=5, train__steps=2)
  for number in range(2):
    assert texts(other, number) == texts(run, number)
  loss = lambda r: [x["loss"] for x in runs.lines(r) if "loss" in x][:2]
  np.testing.assert_allclose(loss(other), loss(run), atol=1e-6)


# What a prompt's samples become, with an opponent's and without.
WAYS = {
  "best and worst": ("dpo", {"rollout__select": "best_worst"}),
  "against a mixture": (
    "nash_md",
    {
      "rollout__select": "against",
      "rollout__opponent": "mixture",
      "rollout__completions": 2,
    },
  ),
  "against an average": (
    "nash_ema",
    {
      "rollout__select": "against",
      "rollout__opponent": "ema",
      "rollout__completions": 2,
    },
  ),
  "one against one": (
    "xpo",
    {
      "rollout__select": "against_pair",
      "rollout__opponent": "reference",
      "rollout__completions": 1,
    },
  ),
  "one sample": ("reinforce_pp", {"rollout__completions": 1}),
  "epochs and slots": (
    "ppo",
    {"rollout__epochs": 2, "rollout__slots": 6, "method__entropy_coef": 0.01},
  ),
  "adaptive": ("ppo", {"method__kl_target": 6.0}),
  "drawn again": (
    "dapo",
    {"rollout__max_batches": 2, "rollout__overlong_buffer": 4},
  ),
  "ahead": ("grpo", {"rollout__ahead": 1, "lora__rank": 4}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_every_way_to_make_a_rollout(cache, tmp_path, name):
  """With held-out prompts, fewer than a rollout's in the last draw."""
  method, changes = WAYS[name]
  run, summary = start(tmp_path, method, **{"train__steps": 2} | changes)
  assert summary["steps"] == 2
  assert all(math.isfinite(x) for x in summary["held_out"].values())
  assert {"reward", "tokens"} <= summary["held_out"].keys()
  steps = [line for line in runs.lines(run) if "loss" in line]
  assert all(math.isfinite(line["loss"]) for line in steps)
  assert steps[0]["sampler/gap"] < 1e-5
  assert texts(run, 0)[0]["completions"]
  if "kl_target" in str(changes):
    # 6 nats are far away: 0.02 falls by 0.2 * episodes / horizon.
    assert steps[-1]["kl/coef"] < 0.02
  if name == "ahead":
    # The second rollout was drawn by the first policy: not the trainer's.
    assert steps[1]["sampler/gap"] > 1e-5


@pytest.mark.parametrize("place", ["judge", "pairs"])
def test_every_judged_slice_is_a_sign_of_life(place):
  """A judge that is slower than train.stall_seconds in all is not stuck."""
  signs = []
  ask = lambda candidates: signs.append("asked") or candidates
  built = judge_config.Built(None, None, "rating", 0.1)._replace(**{place: ask})
  heard = tools.heard(built, lambda: signs.append("alive"))
  assert getattr(heard, place)(7) == 7 and signs == ["asked", "alive"]
  assert (heard.judge is None) == (place == "pairs")
  assert tools.heard(None, print) is None
