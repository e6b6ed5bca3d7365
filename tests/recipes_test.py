"""Every recipe end to end on a tiny model and rows of our own.

Each runs, is stopped in its last training stage, goes on, and keeps what makes
it that recipe. They share the first stages as a user would: with --reuse.
"""

import jax
import numpy as np
import pytest

from tests import runs
from tests.recipe_invariants import (
  KEPT,
  check_online,
  first_loss,
  read,
  self_samples,
  starts_at_log_2,
)
from xpo_jax import (
  checkpoint,
  config,
  flags,
  pipeline,
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
  KEPT[name](folder, chosen)
  again = pipeline.run(chosen, folder, reuse)
  assert capsys.readouterr().out.count("skipped") == len(chosen.order)
  assert again.keys() == done.keys()
  assert all(again[n]["seconds"] == done[n]["seconds"] for n in done)


@pytest.mark.parametrize("name", ["instructgpt", "online_dpo", "cai_rl"])
def test_a_recipe_learns_lora_factors(name, make, base):
  """The reference is the base: exactly the policy before the first step."""
  chosen, folder = make(name), base.parent / f"{name}-lora"
  if name == "cai_rl":  # whose SFT policy has to say something
    for stage, own in chosen.stages.items():
      if "method" in own and stage != "sft":
        own.lora.rank = 4
  else:
    chosen.lora.rank = 4
    chosen.stages.sft.train.steps = 6
  if "ppo" in chosen.stages:
    chosen.stages.ppo.rollout.epochs = 1
    chosen.stages.ppo.train.steps = 2
  pipeline.run(chosen, folder, [str(base)])
  last = [n for n in chosen.order if "method" in chosen.stages[n]][-1]
  first = runs.lines(folder / last)[0]
  assert first["kl/k1"] == 0.0 and first["optimizer/gradient_norm"] > 0
  read_run = run_folder.read(folder / last)
  assert set(read_run.policy) == {"lora"} and read_run.model.lora == (4, 2.0)
  if "ppo" in chosen.stages:  # the value model starts as the reward model
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


def test_a_reward_model_learns_from_people(make, rows, base, xpo, monkeypatch):
  """The commands of the README: samples, a person's answers, a recipe."""
  samples = [
    {
      "prompt": row["prompt"],
      "texts": row["completions"][:2],
      "scores": [0.0, 1.0],
      "policy": [0, 0],
    }
    for row in map(rated, range(120, 136))
  ]
  path, out = base.parent / "samples.jsonl", base.parent / "labels.jsonl"
  runs.write(path, samples)
  monkeypatch.setattr("builtins.input", lambda *_: "1")
  flags_ = (f"--data={path}", f"--out={out}", "--annotator=ann", "--repeat=0")
  assert xpo("label", *flags_)[0] == 0
  answers = [(row["prompt"], row["chosen"]) for row in read(out)]
  chosen = make("reward_model")
  chosen.stages.reward.data.source = str(out)
  chosen.stages.reward.data.eval_source = rows["validation"]
  folder = base.parent / "reward_model-people"
  pipeline.run(chosen, folder, [str(base)])
  read_rows, _ = load.load_groups(str(out))
  assert [(g.prompt, g.completions[0]) for g in read_rows] == answers
  log = runs.lines(folder / "reward")
  assert (
    len([x for x in log if "loss" in x]) == chosen.stages.reward.train.steps
  )


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


def test_every_recipe_of_the_survey_is_there():
  wanted = (
    "instructgpt anthropic_hh anthropic_online online_rlhf cai_sl cai_rl "
    "rlaif_distilled rlaif_direct slic_sample_rank rso sdpo self_rewarding "
    "iterative_cringe d2o token_ppo rloo grpo dr_grpo dapo reinforce_pp "
    "nash_md nash_ema sppo dno online_dpo xpo best_of_n reward_model "
    "preference_model paft"
  ).split()
  assert set(wanted) <= set(NAMES)
  assert KEPT.keys() == set(NAMES)  # each has what makes it that recipe


def test_the_variants_are_those_of_the_builder():
  assert set(recipes.VARIANTS) <= set(config.VARIANTS)
  with pytest.raises(Exception, match="llama8b"):
    flags.load_config_file(f"{FOLDER / 'rloo'}.py:llama8b")


def test_the_prompts_of_two_splits_do_not_meet(rows):
  prompts = [
    {g.prompt for g in load.load_groups(path)[0]} for path in rows.values()
  ]
  assert not prompts[0] & prompts[1] | prompts[0] & prompts[2]
