"""Rows of the table of recipes, out of the folders that `xpo run` left.

A recipe's row is its last policy on held-out prompts, or, where it ends in a
reward or preference model, how often that ranks held-out pairs as people did.
"""

from collections.abc import Mapping
import json
from pathlib import Path

from xpo_jax import evaluation, pipeline

START = "sft"  # the policy that recipes begin with
MEASURES = {
  "gold": "gold",
  "reward": "reward",
  "kl": f"KL to {START}, k1",
  "length": "words",
  "distinct_n": "distinct-2",
  "repetition": "repetition",
}
# Policies are comparable where these are equal.
SAMPLING = ("completions", "max_new_tokens", "prompts", "temperature", "top_p")
NOTES = (
  "Time: all stages, those that recipes share included.",
  "Accuracy: of the model that the recipe ends in.",
)


def rows(folder: Path, configs: Mapping) -> tuple[list[dict], list[str]]:
  """(rows for recipe_table.py, notes) of the recipes that were evaluated.

  The first row is the SFT policy, as the first of the recipes measured it.

  Args:
    folder: a folder a recipe.
    configs: recipe -> its config, whose last stage is `evaluate`.
  """
  found, start, notes = [], None, list(NOTES)
  for name, config in configs.items():
    path = folder / name / "evaluate" / "evaluation.json"
    if not path.is_file():
      continue
    measured = json.loads(path.read_text(encoding="utf-8"))
    asked = config.stages.evaluate
    if asked.final not in measured["means"]:
      notes.append(f"{name}: made by another config, left out")
      continue
    found.append(row(name, config, measured, folder / name))
    if START in measured["means"]:
      # One that ends in a policy, if there is one: others sample otherwise.
      rank = asked.baseline == asked.final, asked.baseline != START
      if start is None or rank < start[0]:
        start = rank, measured["means"][START], asked, name
  if start is None:
    return found, notes
  _, means, asked, name = start
  notes.append(f"Reward model: each recipe's own; of {START} that of {name}.")
  first = {"recipe": START, "start": True, **_policy(means)}
  manifest = folder / name / START / pipeline.MANIFEST
  first["minutes"] = _minutes([manifest])
  for one in found:
    notes += _otherwise(one, configs[one["recipe"]].stages.evaluate, asked)
  return [first, *found], notes


def row(name: str, config, measured: Mapping, folder: Path) -> dict:
  """One recipe's row.

  Args:
    name: of the recipe.
    config: its config.
    measured: its evaluation.json.
    folder: of the run.
  """
  asked = config.stages.evaluate
  manifests = sorted(folder.glob(f"*/{pipeline.MANIFEST}"))
  out = {"recipe": name, "minutes": _minutes(manifests)}
  if asked.final == asked.baseline:
    return out | {"accuracy": _accuracy(config, measured, folder)}
  out |= _policy(measured["means"][asked.final])
  if asked.baseline == START:
    out["change"] = measured["differences"].get("gold")
  return out


def _policy(means: Mapping[str, float]) -> dict:
  return {key: means.get(name) for key, name in MEASURES.items()}


def _minutes(manifests: list[Path]) -> float:
  read = lambda path: json.loads(path.read_text(encoding="utf-8"))
  return sum(read(p)["seconds"] for p in manifests if p.is_file()) / 60


def _accuracy(config, measured: Mapping, folder: Path) -> float | None:
  """On the evaluation's pairs; without those on the run's held-out ones."""
  stages = config.stages
  last = [name for name in config.order if "method" in stages[name]][-1]
  numbers = measured["numbers"]
  known = numbers.get("reward models", {}).get(last, {}).get("accuracy")
  if known is None:
    known = numbers.get("agreement", {}).get("agreement")
  if known is None:
    found = evaluation.held_out_accuracy(folder / last)
    known = found and found.mean
  return known


def _otherwise(one: Mapping, own, common) -> list[str]:
  """How the samples of a policy's row differ from those of the first row."""
  if "accuracy" in one:
    return []
  changes = [
    f"{key} {own[key]}, others {common[key]}"
    for key in SAMPLING
    if own[key] != common[key]
  ]
  return [f"{one['recipe']}: {'; '.join(changes)}"] if changes else []
