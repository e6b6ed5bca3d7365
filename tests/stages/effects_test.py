"""Pairs made of a policy's own samples move it towards the judge."""

import jax
import numpy as np
import pytest

from tests import runs
from xpo_jax import pretrained, train
from xpo_jax.evals import statistics
from xpo_jax.stages import generate

pytestmark = pytest.mark.slow
HELD, K, NEW = 48, 4, 12
JUDGE = {"name": "function", "source": f"{__name__}:warm"}


def warm(prompts, texts):
  """1 if a text names one of two of our six colours, else 0."""
  return [float("red" in text or "black" in text) for text in texts]


@pytest.fixture(scope="module", autouse=True)
def one_device(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "devices", lambda: jax.local_devices()[:1])
    patch.setenv("XPO_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  """A policy that has read our rows, and their prompts' file."""
  folder = tmp_path_factory.mktemp("start")
  runs.write(folder / "prompts.jsonl", map(runs.pair, range(48)))
  fit(folder, "sft", 80, learning_rate=3e-3)
  return folder


def fit(folder, method, steps, learning_rate, **changes):
  changes = {
    "train__steps": steps,
    "train__eval_every": 0,
    "train__save_every": 100,
    "data__eval_source": "",
    "optimizer__learning_rate": learning_rate,
    "optimizer__schedule": "constant",
    **changes,
  }
  train.run(runs.make(folder, method, **changes), folder / "run")
  return folder / "run"


def samples(folder, policies, select, **changes):
  settings = generate.section(
    select=select,
    policies=tuple(map(str, policies)),
    data=dict(changes.pop("data")),
    completions=8,
    max_new_tokens=NEW,
    judge=JUDGE,
    **changes,
  )
  generate.run(settings, folder)
  return str(folder / "data.jsonl")


def rewards(run) -> np.ndarray:
  """[HELD] mean score of a policy's samples on held-out prompts."""
  prompts = [runs.pair(n)["prompt"] for n in range(60, 60 + HELD)]
  model = pretrained.load_pretrained(run)
  texts = model.generate(prompts, NEW, completions=K, seed=5)
  scores = warm([p for p in prompts for _ in range(K)], sum(texts, []))
  return np.reshape(scores, (HELD, K)).mean(-1)


def rises(name, before, after, capsys) -> None:
  found = statistics.paired_bootstrap(before, after, [""] * HELD)
  with capsys.disabled():
    print(f"\n{name}: {before.mean():.3f} -> {after.mean():.3f}, {found}")
  assert found.low > 0


def data_of(start, **more):
  path = str(start / "prompts.jsonl")
  return dict(source=path, split="train", format="auto", on_bad_row="error")


def test_rso(tmp_path, start, capsys):
  rows = samples(
    tmp_path / "pairs",
    [start / "run"],
    "rejection_first_round",
    accept=4,
    select_beta=0.1,
    data=data_of(start),
  )
  run = fit(
    tmp_path,
    "rso",
    40,
    5e-4,
    method__gamma=0.3,
    model__source=str(start / "run"),
    data__source=rows,
  )
  rises("rso", rewards(start / "run"), rewards(run), capsys)


def test_online_rlhf(tmp_path, start, capsys):
  """Two rounds of best against worst, on the pairs of both."""
  newest, also = start / "run", ()
  for n in (1, 2):
    folder = tmp_path / f"round{n}"
    folder.mkdir()
    rows = samples(
      folder / "pairs",
      [newest],
      "best_worst",
      prompts=24,
      first=24 * (n - 1),
      also=also,
      data=data_of(start),
    )
    also = (rows,)
    newest = fit(
      folder,
      "dpo",
      24,
      5e-4,
      method__beta=0.1,
      model__source=str(start / "run"),
      data__source=rows,
    )
  rises("online_rlhf", rewards(start / "run"), rewards(newest), capsys)


def test_instructgpt(tmp_path, start, capsys):
  """SFT, a K-wise reward model of rankings, PPO with a second loss on texts.

  The rewards of PPO are the model's; what it is held to is `warm` itself.
  """
  said = lambda n, colour: f" The {runs.THINGS[n % 7]} is {colour}, I think."
  ranked = [
    {
      "prompt": runs.pair(n)["prompt"],
      "completions": [said(n, c) for c in ("blue", "red", "green", "black")],
      "ranks": [2, 1, 2, 1],
    }
    for n in range(48)
  ]
  rows = tmp_path / "ranked"
  rows.mkdir()
  ranked = str(runs.write(rows / "ranked.jsonl", ranked))
  reward = fit(
    rows,
    "rm_kwise",
    40,
    1e-3,
    model__source=str(start / "run"),
    data__source=ranked,
    batch__row_length=256,
  )
  prompts = str(start / "prompts.jsonl")
  run = fit(
    tmp_path,
    "ppo",
    48,
    5e-4,
    model__source=str(start / "run"),
    data__source=prompts,
    data__max_prompt_length=32,
    data__max_completion_length=NEW,
    method__kl_coef=0.02,
    batch__prompts=16,
    rollout__completions=1,
    rollout__prompts=32,
    rollout__epochs=2,
    rollout__value_source=str(reward),
    judge__name="reward_model",
    judge__source=str(reward),
    aux__method="sft",
    aux__source=prompts,
    aux__coef=0.1,
  )
  rises("instructgpt", rewards(start / "run"), rewards(run), capsys)
