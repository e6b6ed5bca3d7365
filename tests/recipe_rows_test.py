"""Rows of the table of recipes, from folders written here."""

import json
import math

from ml_collections import ConfigDict
import pytest

from tests import runs
from xpo_jax import flags, recipe_rows, recipe_table

SFT = {"gold": 1.0, "words": 9.0, "distinct-2": 0.5, "repetition": 0.25}
RECIPES = sorted((runs.ROOT / "configs" / "recipes").glob("*.py"))


def config(final, order=("sft", "gold", "pairs", "last"), **changes):
  asked = dict(baseline="sft", final=final, completions=2, max_new_tokens=8)
  asked |= dict(prompts=0, temperature=1.0, top_p=1.0)
  stages = {n: {"method": {"name": "x"}} for n in order if n != "pairs"}
  if "pairs" in order:
    stages["pairs"] = {"select": "best_worst"}
  stages["evaluate"] = asked | changes
  return ConfigDict(dict(order=(*order, "evaluate"), stages=stages))


def finished(folder, means, seconds=60.0, numbers=None, gold=(0.5, 0.1, 0.9)):
  for stage in ("sft", "last", "evaluate"):
    (folder / stage).mkdir(parents=True)
    text = json.dumps({"seconds": seconds})
    (folder / stage / "manifest.json").write_text(text)
  found = dict(means=means, numbers=numbers or {}, differences={"gold": gold})
  text = json.dumps(found, sort_keys=True)  # as checkpoint.write_json
  (folder / "evaluate" / "evaluation.json").write_text(text)


def test_the_last_policy_beside_the_start(tmp_path):
  """`aaa` and `start` are first and last by name only."""
  made = {"gold": 1.5, "reward": 2.0, "KL to sft, k1": 3.0, "words": 4.0}
  finished(tmp_path / "a", {"sft": SFT, "aaa": made, "start": SFT})
  finished(tmp_path / "b", {"sft": SFT, "b": made}, gold=(0.5, math.nan, 1))
  (tmp_path / "c").mkdir()  # still under way
  configs = {"a": config("aaa"), "b": config("b"), "c": config("c")}
  (start, a, b), notes = recipe_rows.rows(tmp_path, configs)
  judged = "Reward model: each recipe's own; of sft that of a."
  assert notes == [*recipe_rows.NOTES, judged]
  assert start["recipe"] == "sft" and start["gold"] == 1.0
  assert start["length"] == 9.0 and start["minutes"] == 1.0
  assert "change" not in start and start["kl"] is None
  assert (a["recipe"], a["gold"], a["reward"], a["kl"]) == ("a", 1.5, 2.0, 3.0)
  assert a["change"] == [0.5, 0.1, 0.9] and a["minutes"] == 3.0
  shown = recipe_table.markdown([start, a, b])
  assert "| +0.50 [+0.10, +0.90] |" in shown and "| +0.50 |" in shown


def test_stages_taken_from_another_run_cost_their_time(tmp_path):
  finished(tmp_path / "a", {"sft": SFT, "b": SFT})
  finished(tmp_path / "b", {"sft": SFT, "b": SFT}, seconds=30.0)
  for path in sorted((tmp_path / "b" / "sft").iterdir()):
    path.unlink()
  (tmp_path / "b" / "sft").rmdir()
  (tmp_path / "b" / "sft").symlink_to(tmp_path / "a" / "sft")
  (_, a, b), _ = recipe_rows.rows(tmp_path, dict.fromkeys("ab", config("b")))
  assert (a["minutes"], b["minutes"]) == (3.0, 2.0)


@pytest.mark.parametrize(
  "numbers, wanted",
  [
    ({}, 2 / 3),
    ({"agreement": {"agreement": 0.7}}, 0.7),
    ({"reward models": {"gold": {"accuracy": 0.9}}}, 2 / 3),
    ({"reward models": {"last": {"accuracy": 0.8}}}, 0.8),
  ],
)
def test_a_model_has_its_accuracy_and_nothing_of_sft(tmp_path, numbers, wanted):
  finished(tmp_path / "rm", {"sft": SFT | {"words": 7.0}}, numbers=numbers)
  rows = [
    {"id": str(n), "cluster": "", "rewards/margin": m}
    for n, m in enumerate((0.5, -1.0, 2.0))
  ]
  runs.write(tmp_path / "rm" / "last" / "held_out.jsonl", rows)
  configs = {"rm": config("sft", completions=8)}
  (start, rm), _ = recipe_rows.rows(tmp_path, configs)
  assert rm == {"recipe": "rm", "minutes": 3.0, "accuracy": rm["accuracy"]}
  assert rm["accuracy"] == pytest.approx(wanted)
  assert start["length"] == 7.0  # nobody else has measured it
  finished(tmp_path / "z", {"sft": SFT, "z": SFT})
  (start, *_), notes = recipe_rows.rows(tmp_path, configs | {"z": config("z")})
  assert start["length"] == 9.0 and len(notes) == 3


def test_what_is_not_comparable_is_said(tmp_path):
  finished(tmp_path / "a", {"sft": SFT, "a": SFT})
  finished(tmp_path / "p", {"start": SFT, "sft": SFT, "merged": SFT})
  finished(tmp_path / "q", {"sft": SFT})
  configs = {
    "p": config("merged", baseline="start", temperature=0.5, completions=3),
    "a": config("a"),
    "q": config("r"),
  }
  (start, p, a), notes = recipe_rows.rows(tmp_path, configs)
  assert "change" not in p and a["change"]
  assert notes[2:] == [
    "q: made by another config, left out",
    "Reward model: each recipe's own; of sft that of a.",
    "p: completions 3, others 2; temperature 0.5, others 1.0",
  ]


def test_nothing_finished_is_no_table(tmp_path):
  assert recipe_rows.rows(tmp_path, {"a": config("a")})[0] == []


def test_every_recipe_ends_in_an_evaluation_of_its_last_stage():
  """What `rows` reads of a config is there; models are told from policies."""
  models, judged = [], {}
  for path in RECIPES:
    chosen = flags.load_config_file(f"{path}:tiny")
    asked = chosen.stages.evaluate
    assert chosen.order[-1] == "evaluate" and asked.final == asked.columns[-1]
    assert set(recipe_rows.SAMPLING) <= set(asked)
    judged[path.stem] = asked.rewards.get("reward")
    if asked.final == asked.baseline:
      models.append(path.stem)
  assert models == ["preference_model", "reward_model"]
  assert judged["anthropic_online"] == "stage:reward2"  # the last one
  assert judged["instructgpt"] == judged["rloo"] == "stage:reward"
  assert judged["sdpo"] is judged["token_ppo"] is None
