"""Policies side by side on held-out prompts: samples, gold, rewards, KL."""

from collections.abc import Mapping
import functools
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from xpo_jax import (
  checkpoint,
  evaluation_further,
  evaluation_judging,
  held_out,
  policy_numbers,
  policy_samples,
  pretrained,
)
from xpo_jax.data import load
from xpo_jax.errors import XpoError, usage_error
from xpo_jax.evals import compare, diversity, gold, statistics, text
from xpo_jax.evaluation_judging import Written
from xpo_jax.pretrained import Pretrained
from xpo_jax.rollout import requests


def held_out_accuracy(run: Path) -> statistics.Estimate | None:
  """Share of held-out pairs with a positive margin, clustered.

  A margin that is not finite is left out; None without any.
  """
  path = run / held_out.FILE
  if not path.is_file():
    return None
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  pairs = rows and "rewards/desirable" not in rows[0]
  if not pairs or "rewards/margin" not in rows[0]:
    return None
  rows = [row for row in rows if np.isfinite(row["rewards/margin"])]
  if not rows:
    return None
  margins = [row["rewards/margin"] for row in rows]
  return statistics.accuracy(margins, [r["cluster"] or r["id"] for r in rows])


KEYS = (
  "baseline columns completions data final max_new_tokens policies prompts "
  "prompts_at_once reference rewards seed shared_blocks temperature template "
  "top_p"
).split()
MEASURES = (*gold.SCORERS, "unknown words")
# Rows of the table that no reward model can be called after.
TAKEN = (
  *MEASURES,
  *compare.TEXT_MEASURES,
  *compare.CORPUS_MEASURES,
  policy_numbers.ENTROPY,
  "ended with EOS",
  "harmless",
  *diversity.OF_PROMPT,
)
# Keys that need not be there.
DEFAULTS: dict[str, Any] = {
  "judge": {},  # of final against baseline, and against people
  "harmless": {},  # a judge of single texts
  "harmless_above": 0.0,  # its score from which a text is no harm
  "labelled": "",  # a file, or films: pairs or lists that people ranked
  "choices": "",  # a file of multiple-choice questions
  "texts": "",  # a file of held-out texts
  "measures": MEASURES,  # of texts, beside those that all texts get
}


def complete(settings: Mapping[str, Any]) -> ConfigDict:
  """The settings with the defaults of the keys that need not be there."""
  return ConfigDict(DEFAULTS | dict(settings)).lock()


def check(settings, where: str) -> None:
  """What can be wrong before any policy is trained.

  Raises:
    XpoError: a key is missing or unknown, a name is no policy's, or a judge's
      section is wrong.
  """
  for key in sorted({*KEYS} ^ {*settings} - {*DEFAULTS}):
    problem = "is missing" if key in KEYS else "is unknown"
    raise usage_error(
      f"{where}.{key} {problem}; an evaluation has {', '.join(KEYS)}, and may "
      f"have {', '.join(DEFAULTS)}"
    )
  for name in settings.policies:
    if not name or not {"/", "\\", "\0"}.isdisjoint(name):
      raise usage_error(
        f"{where}.policies: {name!r} cannot be a part of a file's name; take a "
        "short name without slashes"
      )
  for name in settings.rewards:
    if name in TAKEN:
      raise usage_error(
        f"{where}.rewards: {name!r} is a measure already; take another name"
      )
  for name in settings.columns:
    if name not in settings.policies:
      raise usage_error(
        f"{where}.columns: {name!r} is none of its policies: "
        f"{', '.join(settings.policies)}"
      )
  for key in ("baseline", "final", "reference"):
    named = settings[key] or key != "reference"
    if named and settings[key] not in settings.columns:
      raise usage_error(
        f"{where}.{key}={settings[key]!r} is none of its columns: "
        f"{', '.join(settings.columns)}"
      )
  _check_sampling(settings, where)
  given = complete(settings)
  for key, of_texts in (("judge", False), ("harmless", True)):
    evaluation_judging.check(given[key], f"{where}.{key}", of_texts)
  for name in given.measures:
    if name not in MEASURES:
      raise usage_error(
        f"{where}.measures: {name!r}; choose among {', '.join(MEASURES)}"
      )


def _check_sampling(settings, where: str) -> None:
  try:
    requests.check(
      settings.max_new_tokens,
      settings.temperature,
      settings.top_p,
      settings.completions,
      top_k=0,
    )
  except XpoError as e:
    raise usage_error(f"{where}: {e}") from e
  for key, low in (("prompts", 0), ("prompts_at_once", 1)):
    if settings[key] < low:
      raise usage_error(f"{where}.{key}={settings[key]}: must be >= {low}")


def run(settings, folder: Path) -> dict:
  """Samples and measures every policy; returns tables and samples.

  Args:
    settings: policies {name: source}, columns (their names in order), baseline
      and final (two of them),
      rewards {name: reward-model source}, reference (a name, or "": no KL),
      data {source, split, format, on_bad_row}, prompts (0 = all), template
      (plain, chat, or auto: each policy's own), completions, max_new_tokens,
      temperature, top_p, seed, prompts_at_once, shared_blocks (frozen first
      blocks); and any of DEFAULTS.
    folder: for samples, verdicts and `evaluation.json`.

  Returns:
    {"tables", "samples"} as in report.py, "differences", "means", and
    "numbers" of the further tables.
  """
  settings = complete(settings)
  folder.mkdir(parents=True, exist_ok=True)
  prompts = load.prompts(settings.data, settings.prompts)
  rows = evaluation_further.read(settings)
  open_all = lambda sources: {
    k: pretrained.load_pretrained(v) for k, v in sources.items()
  }
  loaded, judges = open_all(settings.policies), open_all(settings.rewards)
  policies = {k: loaded[k] for k in settings.columns}
  _check_tokenizers(settings, policies, judges)
  _check_heads(settings.rewards, judges)
  splits = policy_numbers.split_shared(
    {f"policy {k}": v for k, v in policies.items()}
    | {f"reward {k}": v for k, v in judges.items()},
    settings.shared_blocks,
  )
  scorers = _scorers(settings)
  measured, written = {}, {}
  for name, policy in policies.items():
    groups = policy_samples.sample_policy(
      name, policy, prompts, settings, folder
    )
    written[name] = _written(policy, prompts, groups, settings.template)
    scores = policy_numbers.scores(
      settings.rewards, settings.reference, splits, name, groups
    )
    if settings.harmless.get("name"):
      scores["harmless"] = evaluation_judging.harmless(
        settings.harmless,
        "harmless",
        [p.prompt for p in prompts],
        written[name],
        settings.harmless_above,
        folder / f"harmless-{name}.jsonl",
        settings.seed,
      )
    known = {k: (lambda _, v=v: v) for k, v in scores.items()}
    measured[name] = compare.measure(written[name].texts, scorers(known))
  further = evaluation_further.measure(
    settings, rows, prompts, policies, judges, measured, written, folder
  )
  return _summary(settings, prompts, measured, written, further, folder)


def _scorers(settings):
  """Scores of the models -> all scorers of texts, in the table's order."""
  chosen = settings.measures
  before = {k: f for k, f in gold.SCORERS.items() if k in chosen}
  after = {}
  if "unknown words" in chosen:
    known = text.vocabulary(load.texts(settings.data, "train"))
    after["unknown words"] = lambda t: text.broken_words(t, known)
  if settings.completions > 1:
    for name in diversity.OF_PROMPT:
      after[name] = functools.partial(
        diversity.of_prompts, name, settings.completions
      )
  return lambda scores: before | scores | after


def _written(policy: Pretrained, prompts, groups, template: str) -> Written:
  texts = []
  kind = policy_samples.template_name(policy, template)
  for p, g in zip(prompts, groups, strict=True):
    # The plain template begins an assistant's turn with a space.
    lead = " " if kind == "plain" and not isinstance(p.prompt, str) else ""
    own = map(policy.tokenizer.decode, g.completions)
    texts += [t.removeprefix(lead) for t in own]
  clusters = [g.cluster for g in groups for _ in g.completions]
  return Written(texts, [e for g in groups for e in g.ended], clusters)


def _check_tokenizers(settings, policies, judges) -> None:
  """Numbers of one model on another's samples need one tokenizer."""
  models = (*policies.values(), *judges.values())
  if settings.reference or judges:
    _common_tokenizer(models)
  for m in models:
    _common_tokenizer([m])


def _check_heads(sources, judges: dict[str, Pretrained]) -> None:
  for name, judge in judges.items():
    if judge.reward_head is None:
      raise usage_error(
        f"evaluate.rewards.{name}={sources[name]}: no value head, these are a "
        "policy's weights; name a run of a reward model, as rm_bt"
      )


def _common_tokenizer(models):
  if any(m.tokenizer is None for m in models):
    raise usage_error(
      "evaluate: a policy or reward model has no tokenizer; add tokenizer.json "
      "to its folder"
    )
  if len({m.tokenizer.fingerprint() for m in models}) > 1:
    raise usage_error(
      "evaluate: policies and reward models have different tokenizers; compare "
      "models of one family"
    )
  return models[0].tokenizer


def _summary(settings, prompts, measured, written, further, folder) -> dict:
  base, final = settings.baseline, settings.final
  clusters = written[final].clusters
  rows = compare.differences(
    measured[base], measured[final], clusters, seed=settings.seed
  )
  columns = {k: compare.estimates(m, clusters) for k, m in measured.items()}
  table = compare.final_table(
    f"{len(prompts)} held-out prompts x {settings.completions} samples, "
    f"temperature {settings.temperature}",
    columns,
    rows,
    f"{final} - {base}",
  )
  count = settings.completions
  samples = [
    {
      "prompt": policy_samples.shown(prompts[b].prompt),
      "texts": {k: own.texts[b * count] for k, own in written.items()},
      "scores": {
        k: {
          judge: float(m.per_text[judge][b * count])
          for judge in gold.SCORERS
          if judge in m.per_text
        }
        for k, m in measured.items()
      },
    }
    for b in range(len(prompts))
  ]
  result = {
    "tables": [table, *(shown for shown, _ in further.values())],
    "samples": samples,
    "differences": {r.measure: [float(x) for x in r.difference] for r in rows},
    "means": {
      k: {name: float(e.mean) for name, e in estimates.items()}
      for k, estimates in columns.items()
    },
    "numbers": {name: numbers for name, (_, numbers) in further.items()},
  }
  checkpoint.write_json(folder / "evaluation.json", result)
  return result
