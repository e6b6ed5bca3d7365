"""What an evaluation measures beside the samples' own numbers.

Win rates by a judge, reward against KL, the alignment tax, and how far reward
models and judges agree with people: each only where the settings name its data.
"""

from pathlib import Path
from typing import Any

from xpo_jax import (
  evaluation_judging,
  evaluation_labels,
  policy_samples,
  reward_frontier,
  taxes,
)
from xpo_jax.data.records import Group


def read(settings) -> dict[str, list[Group] | None]:
  """Rows that the measures need, read before any model is.

  Raises:
    XpoError: (65) bad data.
  """
  out = {"choices": None, "texts": None, "labelled": None}
  if settings.choices:
    out["choices"] = taxes.read_choices(settings.choices)
  if settings.texts:
    out["texts"] = taxes.read_texts(settings.texts)
  if settings.labelled:
    out["labelled"] = evaluation_labels.read(settings.labelled)
  return out


def measure(
  settings, rows, prompts, policies, judges, measured, written, folder: Path
) -> dict[str, tuple[dict, Any]]:
  """name -> (table, numbers) of what the settings ask for.

  Args:
    settings: of an evaluation, complete.
    rows: of `read`.
    prompts: groups, [prompts].
    policies: name -> model.
    judges: name -> reward model.
    measured: policy -> numbers of its samples.
    written: policy -> Written.
    folder: for the verdicts.
  """
  out: dict[str, tuple[dict, Any]] = {}
  base, final = settings.baseline, settings.final
  judge = settings.judge.get("name", "")
  if judge:
    out["win rate"] = evaluation_judging.versus(
      settings.judge,
      "judge",
      [p.prompt for p in prompts],
      written[final],
      written[base],
      (final, base),
      folder / "judge.jsonl",
      settings.seed,
    )
  if settings.reference and settings.rewards:
    out["frontier"] = _frontier(settings, measured)
  if rows["choices"] or rows["texts"]:
    out["tax"] = _tax(settings, rows, policies)
  if rows["labelled"] and judges:
    made = {
      name: evaluation_labels.reward_judge(model, settings.template)
      for name, model in judges.items()
    }
    out["reward models"] = evaluation_labels.reward_table(
      rows["labelled"], made
    )
  if rows["labelled"] and judge:
    found = evaluation_judging.ask(
      settings.judge,
      "judge",
      evaluation_labels.candidates_of(rows["labelled"]),
      folder / "judge-labelled.jsonl",
      settings.seed,
    )
    out["agreement"] = evaluation_labels.agreement_table(
      rows["labelled"], found, judge
    )
  return out


def _frontier(settings, measured) -> tuple[dict, dict]:
  points = reward_frontier.points(
    list(settings.rewards),
    f"KL to {settings.reference}, k1",
    {name: m.per_text for name, m in measured.items()},
    settings.reference,
    settings.completions,
  )
  numbers = {p.name: {"sqrt(KL)": p.distance, **p.rewards} for p in points}
  return reward_frontier.table(points, settings.reference), numbers


def _tax(settings, rows, policies) -> tuple[dict, dict]:
  paid = {}
  for name, policy in policies.items():
    kind = policy_samples.template_name(policy, settings.template)
    paid[name] = taxes.measure(policy, kind, rows["choices"], rows["texts"])
  table = taxes.table(
    paid, rows["choices"], settings.baseline, settings.final, settings.seed
  )
  return table, {name: taxes.numbers(own) for name, own in paid.items()}
