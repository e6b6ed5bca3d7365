"""Every recipe end to end on a tiny model and rows of our own.

Each runs, is stopped in its last training stage, goes on, and keeps what makes
it that recipe. They share the first stages as a user would: with --reuse.
"""

import json
import math
import pathlib

import jax
import numpy as np
import pytest

from tests import runs
from xpo_jax import (
  checkpoint,
  config,
  flags,
  pipeline,
  pretrained,
  recipes,
  run_folder,
)
from xpo_jax.data import load

FOLDER = runs.ROOT / "configs" / "recipes"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
FIRST = ("sft", "gold", "reward")
pytestmark = pytest.mark.slow

GOOD = ("bright", "warm", "kind", "clear", "lovely", "wise")
BAD = ("dull", "cold", "cruel", "muddy", "ugly", "silly")


def rated(n: int) -> dict:
  """A prompt with four texts that five people rated."""
  noise = np.random.default_rng(n)
  words = [noise.choice(GOOD if k % 2 else BAD) for k in range(4)]
  texts = [
    f" The {runs.THINGS[(n + k) % 7]} is {w}." for k, w in enumerate(words)
  ]
  mean = [2 if w in GOOD else -2 for w in words]
  return {
    "prompt": f"Thing {n}:",
    "completions": texts,
    "ratings": [[m, m + 1, m, m - 1, m] for m in mean],
  }


@pytest.fixture(scope="module", autouse=True)
def one_device():
  """As on a laptop: recipes on meshes are tests/online's."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "devices", lambda: jax.local_devices()[:1])
    yield


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
  """Files in the place of the films' splits."""
  folder = tmp_path_factory.mktemp("rows")
  parts = {"train": (0, 120), "gold": (200, 250), "validation": (300, 324)}
  return {
    name: str(runs.write(folder / f"{name}.jsonl", map(rated, range(*span))))
    for name, span in parts.items()
  }


def local(section, rows, train: bool) -> None:
  """Our rows for those of the films, in the format that films would have."""
  if section.get("source") == "films":
    section["source"] = rows[section.get("split", "train")]
    if train and section.get("format") == "auto":
      section["format"] = "pairs"


def small(stage, rows) -> None:
  """A few steps and tokens; what the recipe is stays as it is."""
  if "method" in stage:
    local(stage.data, rows, True)
    local(stage.aux, rows, True)
    if stage.data.source.endswith("train.jsonl"):
      stage.data.eval_source = rows["validation"]
    stage.data.eval_limit = 8
    stage.data.limit = min(stage.data.limit or 96, 96)
    stage.data.first = min(stage.data.first, 96)
    stage.batch.prompts = 4
    stage.aux.prompts = 4 if stage.aux.method else 0
    online = stage.rollout.completions > 0
    if online:
      stage.data.max_completion_length = 8
      stage.rollout.prompts = 8 if stage.rollout.prompts else 0
    if stage.method.name == "dr_grpo":
      stage.method.loss_length = stage.data.max_completion_length
    per = stage.rollout.epochs * (2 if stage.rollout.prompts else 1)
    stage.train.epochs, stage.train.steps = 0.0, 2 * per if online else 6
    stage.train.eval_every = 0
    stage.train.save_every = 50
    stage.optimizer.warmup_steps = 1
    return
  if "select" in stage:  # of steps that so short a run does not make
    stage.policies = tuple(p.partition("@")[0] for p in stage.policies)
  if "rated" in stage:
    local(stage.rated, rows, False)
    stage.each = 4
  if "data" in stage:
    local(stage.data, rows, False)
  if "shots" in stage:  # the tiny model says little, and little else again
    stage.lead, stage.suffix, stage.overlap = "Thing ", ":", 1.0
    stage.prompts, stage.requests, stage.max_new_tokens = 16, 256, 40
    return
  for key, most in (
    ("prompts", 8),
    ("first", 24),
    ("prompts_at_once", 8),
    ("max_new_tokens", 8),
    ("completions", 8),
    ("accept", 4),
    ("revisions", 1),
  ):
    if key in stage:
      value = stage[key] if stage[key] else (most if key != "first" else 0)
      stage[key] = min(value, most)


@pytest.fixture(scope="module")
def make(rows):
  def make_config(name: str, arg: str = "tiny"):
    chosen = flags.load_config_file(f"{FOLDER / name}.py:{arg}").unlock()
    for stage in chosen.stages.values():
      small(stage, rows)
    if "sft" in chosen.stages:
      chosen.stages.sft.train.steps = 30
    return chosen

  return make_config


@pytest.fixture(scope="module")
def base(make, tmp_path_factory):
  """The stages that recipes begin with, once."""
  folder = tmp_path_factory.mktemp("recipes") / "base"
  chosen = make("rloo")
  chosen.order = FIRST
  for name in [n for n in chosen.stages if n not in FIRST]:
    del chosen.stages[name]
  pipeline.run(chosen, folder)
  return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe(name, make, base, monkeypatch, capsys):
  chosen, folder = make(name), base.parent / name
  last = [n for n in chosen.order if "method" in chosen.stages[n]][-1]
  chosen.stages[last].train.save_every = 1
  reuse = [] if last in FIRST else [str(base)]  # what is reused saves nothing
  saves, save = [], checkpoint.save

  def stops(saver, *rest, **more):
    done = save(saver, *rest, **more)
    saves.append(saver.folder.parent.name)
    if saves.count(last) == 1:
      saver.wait()
      raise KeyboardInterrupt("told to stop")
    return done

  monkeypatch.setattr(checkpoint, "save", stops)
  with pytest.raises(KeyboardInterrupt):
    pipeline.run(chosen, folder, reuse)
  monkeypatch.setattr(checkpoint, "save", save)
  capsys.readouterr()
  done = pipeline.run(chosen, folder, reuse)
  said = capsys.readouterr().out
  assert "resumed at step 1 of" in said
  assert said.count("finished before, skipped") == chosen.order.index(last)
  assert all(done[stage]["summary"] for stage in chosen.order)
  assert (folder / "report.html").stat().st_size > 20_000
  for stage, own in chosen.stages.items():
    if "method" in own and own.rollout.completions:
      check_online(folder / stage, own)
  KEPT.get(name, lambda folder, chosen: None)(folder, chosen)
  again = pipeline.run(chosen, folder, reuse)
  assert capsys.readouterr().out.count("skipped") == len(chosen.order)
  assert again.keys() == done.keys()
  assert all(again[n]["seconds"] == done[n]["seconds"] for n in done)


@pytest.mark.parametrize("name", ["instructgpt", "online_dpo"])
def test_a_recipe_learns_lora_factors(name, make, base):
  """The reference is the base: exactly the policy before the first step."""
  chosen, folder = make(name), base.parent / f"{name}-lora"
  chosen.lora.rank = 4
  chosen.stages.sft.train.steps = 6
  if name == "instructgpt":
    chosen.stages.ppo.rollout.epochs = 1
    chosen.stages.ppo.train.steps = 2
  pipeline.run(chosen, folder)
  last = [n for n in chosen.order if "method" in chosen.stages[n]][-1]
  first = runs.lines(folder / last)[0]
  assert first["kl/k1"] == 0.0 and first["optimizer/gradient_norm"] > 0
  read_run = run_folder.read(folder / last)
  assert set(read_run.policy) == {"lora"} and read_run.model.lora == (4, 2.0)
  if name == "instructgpt":  # the value model starts as the reward model
    reward = run_folder.read(folder / "reward").policy
    start = runs.bits(folder / last)[1]
    assert any("['value']" in key for key in start)
    assert set(reward) == {"lora", "reward_head"}


def test_a_reward_model_of_rejected_texts_alone(make, base):
  chosen = make("reward_model", "tiny,loss=rm_negative")
  folder = base.parent / "reward_model-negative"
  pipeline.run(chosen, folder, [str(base)])
  self_samples(folder, chosen)
  head = run_folder.read(folder / "reward").policy["reward_head"]
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(head))
  assert first_loss(folder / "reward") > 0


def test_self_rewarding_on_prompts_of_its_own(make, base):
  chosen = make("self_rewarding", "tiny,prompts=own")
  chosen.stages.samples2.first = 8
  folder = base.parent / "self_rewarding-own"
  pipeline.run(chosen, folder, [str(base)])
  new = [row["prompt"] for row in read(folder / "prompts" / "data.jsonl")]
  assert not set(new) & {rated(n)["prompt"] for n in range(120)}
  for n, first in ((1, 0), (2, 8)):
    asked = read(folder / f"samples{n}" / "samples.jsonl")
    assert [row["prompt"] for row in asked] == new[first : first + 8]
  starts_at_log_2("round1", "round2")(folder, chosen)


def check_online(run: pathlib.Path, stage) -> None:
  """What every loop leaves, and what holds of its first rollout."""
  first = runs.lines(run)[0]
  assert first["sampler/gap"] < 1e-4 and math.isfinite(first["loss"])
  if "kl/k1" in first and stage.model.source == "stage:sft":
    assert abs(first["kl/k1"]) < 1e-4  # the policy still is the reference
  texts = sorted((run / "rollouts").glob("*.jsonl"))
  updates = max(1, stage.rollout.prompts // stage.batch.prompts)
  assert len(texts) == stage.train.steps // (stage.rollout.epochs * updates)
  row = read(texts[0])[0]
  assert len(row["completions"]) == len(row["scores"]) > 0


def read(path: pathlib.Path) -> list[dict]:
  return [json.loads(line) for line in path.read_text().splitlines()]


def first_loss(run: pathlib.Path) -> float:
  return runs.lines(run)[0]["loss"]


def numbers(stage: pathlib.Path) -> dict:
  return json.loads((stage / "generate.json").read_text())["numbers"]


def pairs_follow_scores(folder, chosen, stage="pairs"):
  """Chosen scored higher than rejected, among the samples of its prompt."""
  scores = {
    (json.dumps(row["prompt"]), text): score
    for row in read(folder / stage / "samples.jsonl")
    for text, score in zip(row["texts"], row["scores"], strict=True)
  }
  new = read(folder / stage / "data.jsonl")
  seen = [
    (scores[key, row["chosen"]], scores[key, row["rejected"]])
    for row in new
    if ((key := json.dumps(row["prompt"])), row["chosen"]) in scores
  ]
  assert seen and all(a > b for a, b in seen)


def starts_at_log_2(*stages):
  def kept(folder, chosen):
    for stage in stages:
      assert first_loss(folder / stage) == pytest.approx(math.log(2), abs=1e-3)

  return kept


def rounds_add_up(folder, chosen):
  """Every round keeps the rows of those before it."""
  before: list = []
  for stage in [n for n in chosen.order if n.startswith("pairs")]:
    now = read(folder / stage / "data.jsonl")
    assert now[: len(before)] == before and len(now) > len(before)
    before = now
  starts_at_log_2("dpo1", "dpo2", "dpo3")(folder, chosen)


def best_is_kept(folder, chosen):
  stage = next(n for n in chosen.order if "select" in chosen.stages[n])
  kept = {json.dumps(r["prompt"]): r["completion"]
          for r in read(folder / stage / "data.jsonl")}  # fmt: skip
  for row in read(folder / stage / "samples.jsonl"):
    best = row["texts"][int(np.argmax(row["scores"]))]
    assert kept[json.dumps(row["prompt"])] == best


def soft_labels(folder, chosen):
  for row in read(folder / "pairs" / "data.jsonl"):
    p, q = row["win_rates"]
    assert 0 <= p <= 1 and p + q == pytest.approx(1)


def merged_is_a_model(folder, chosen):
  model = pretrained.load_pretrained(folder / "merge" / "model")
  assert np.isfinite(np.asarray(model.logits([[1, 2, 3]]))).all()


def self_samples(folder, chosen):
  asked = chosen.stages.samples.completions
  for row in read(folder / "samples" / "data.jsonl"):
    assert 0 < len(row["samples"]) <= asked and row["rejected"].strip()


def wins_are_probabilities(stage):
  def kept(folder, chosen):
    for line in runs.lines(folder / stage):
      if "rewards/judge" in line:
        assert 0 <= line["rewards/judge"] <= 1

  return kept


def references_move(folder, chosen):
  """Every step of sDPO starts as its own reference: a loss of log 2."""
  own = [n for n in chosen.order if n.startswith("dpo")]
  assert len(own) > 1
  starts_at_log_2(*own)(folder, chosen)
  for before, after in zip(own, own[1:], strict=False):
    assert chosen.stages[after].model.source == f"stage:{before}"


def accepted(folder, chosen):
  found = numbers(folder / "pairs")
  assert 0 < found["rows"] <= 8 * chosen.stages.pairs.accept // 2


KEPT = {
  "online_rlhf": rounds_add_up,
  "best_of_n": best_is_kept,
  "slic_sample_rank": pairs_follow_scores,
  "rlaif_distilled": soft_labels,
  "cai_rl": soft_labels,
  "paft": merged_is_a_model,
  "d2o": self_samples,
  "nash_md": wins_are_probabilities("nash_md"),
  "nash_ema": wins_are_probabilities("nash_ema"),
  "sdpo": references_move,
  "rso": accepted,
  "online_dpo": starts_at_log_2("online_dpo"),
}


def test_every_recipe_of_the_survey_is_there():
  wanted = (
    "instructgpt anthropic_hh anthropic_online online_rlhf cai_sl cai_rl "
    "rlaif_distilled rlaif_direct slic_sample_rank rso sdpo self_rewarding "
    "iterative_cringe d2o token_ppo rloo grpo dr_grpo dapo reinforce_pp "
    "nash_md nash_ema sppo dno online_dpo xpo best_of_n reward_model "
    "preference_model"
  ).split()
  assert set(wanted) <= set(NAMES)


def test_the_variants_are_those_of_the_builder():
  assert set(recipes.VARIANTS) <= set(config.VARIANTS)
  with pytest.raises(Exception, match="llama8b"):
    flags.load_config_file(f"{FOLDER / 'rloo'}.py:llama8b")


def test_the_prompts_of_two_splits_do_not_meet(rows):
  prompts = [
    {g.prompt for g in load.load_groups(path)[0]} for path in rows.values()
  ]
  assert not prompts[0] & prompts[1] | prompts[0] & prompts[2]
