"""A stage that makes data out of a policy's own samples and a judge.

The loops of online RLHF, self-rewarding, iterative CRINGE, RSO, SLiC, SPPO,
DNO, D2O and of soft labels are this stage and a training stage, in turn; they
differ in `select`.
"""

import collections
from collections.abc import Mapping
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from xpo_jax import checkpoint, hosts, judge_options
from xpo_jax.data import templates
from xpo_jax.errors import XpoError, data_error, usage_error
from xpo_jax.rollout import requests
from xpo_jax.stages import drawing, outcome, rows, selection, verdicts
from xpo_jax.stages import section as sections
from xpo_jax.stages.selection import KINDS

SUMMARY, ROWS, SAMPLES = "generate.json", "data.jsonl", "samples.jsonl"
DEFAULTS = {
  "select": "best_worst",  # a key of selection.KINDS
  "policies": (),  # runs, exports or presets that share the completions
  "temperatures": (1.0,),  # one a policy, or one for all
  "data": sections.DATA,  # where the prompts are
  "prompts": 0,  # so many; 0: all
  "first": 0,  # after so many that are left out
  "shuffle_seed": -1,  # of the prompts' order; -1: as in the data
  "instructions": (),  # texts put before the prompt, in turn over the samples
  "completions": 8,  # a prompt
  "max_new_tokens": 128,
  "top_p": 1.0,
  "top_k": 0,
  "template": "auto",
  "prompts_at_once": 16,
  "seed": 0,
  "judge": judge_options.DEFAULTS,
  "length_penalty": 0.0,  # off a score (of P: its logit) for every character
  "accept": 8,  # n of rejection sampling
  "select_beta": 0.5,  # its temperature
  "min_margin": 1.0,  # of large_margin, in scores
  "gold": False,  # the data's own best completion is a candidate too
  "also": (),  # files of the same layout whose rows come before the new ones
}
RULES = (
  sections.choice("select", *KINDS),
  ("policies", bool, "given: a run, an export or a preset"),
  sections.required("data.source", "a path or films"),
  sections.choice("data.on_bad_row", "error", "skip"),
  sections.at_least("prompts", 0),
  sections.at_least("first", 0),
  sections.at_least("shuffle_seed", -1),
  sections.choice("template", "auto", *templates.TEMPLATES),
  sections.at_least("prompts_at_once", 1),
  ("seed", lambda n: 0 <= n < 2**31, "in [0, 2**31)"),
  sections.at_least("length_penalty", 0.0),
  sections.at_least("accept", 2),
  sections.at_least("select_beta", 0.0),
  ("min_margin", lambda x: x > 0, "> 0"),
)


def section(**keywords: Any) -> ConfigDict:
  """The settings with these keys and the defaults of the others.

  Raises:
    XpoError: (64) an unknown key, or a value of another type.
  """
  return ConfigDict(sections.fill(keywords, DEFAULTS, (), "generate").to_dict())


def check(settings: Mapping[str, Any], where: str) -> None:
  """What can be wrong before anything starts.

  Raises:
    XpoError: (64) a key, type or range; a judge that is missing or not asked;
      too few completions for the selection.
  """
  chosen = sections.fill(settings, DEFAULTS, RULES, where)
  kind, name = KINDS[chosen.select], chosen.select
  heats, policies = chosen.temperatures, chosen.policies
  for heat in heats:
    try:
      requests.check(
        chosen.max_new_tokens,
        heat,
        chosen.top_p,
        chosen.completions,
        chosen.top_k,
      )
    except XpoError as e:
      raise usage_error(f"{where}: {e}") from e
  if len(heats) not in (1, len(policies)):
    raise usage_error(
      f"{where}.temperatures={heats}: give one, or one for each of the "
      f"{len(policies)} policies"
    )
  _check_completions(chosen, kind, where)
  if chosen.gold and not kind.gold:
    users = ", ".join(k for k, own in KINDS.items() if own.gold)
    raise usage_error(f"{where}.gold: {name} takes no gold; choose {users}")
  if chosen.length_penalty and not kind.judge:
    raise usage_error(
      f"{where}.length_penalty={chosen.length_penalty:g}: {name} has no "
      "scores; leave it at 0"
    )
  judge_options.check(chosen.judge, f"{where}.judge")
  if bool(chosen.judge.name) != bool(kind.judge):
    mend = "name a judge" if kind.judge else "it asks no judge, leave it empty"
    raise usage_error(
      f"{where}.judge.name={chosen.judge.name!r}: select={name!r}: {mend}"
    )


def _check_completions(chosen, kind, where: str) -> None:
  name, count = chosen.select, chosen.completions
  least = kind.least - (chosen.gold and kind.gold)
  problem = ""
  if name == "soft_pairs" and count != 2:
    problem = "soft_pairs takes exactly 2"
  elif count < least:
    problem = f"{name} takes at least {least}"
  elif count < len(chosen.policies):
    problem = f"there are {len(chosen.policies)} policies to share them"
  elif name.startswith("rejection") and count < chosen.accept:
    problem = f"accept={chosen.accept} of them cannot be accepted"
  if problem:
    raise usage_error(f"{where}.completions={count}: {problem}")


def run(settings: Mapping[str, Any], folder: Path) -> dict:
  """Makes `data.jsonl`, rows of one layout, and `samples.jsonl`.

  Samples and verdicts are on the disk as soon as they are there: a run that is
  killed and started again draws and asks nothing twice and leaves the same
  bytes.

  Args:
    settings: see DEFAULTS.
    folder: of the stage.

  Returns:
    {"tables", "samples"} as in report.py, and "numbers"; also in
    `generate.json`.

  Raises:
    XpoError: bad settings, data, models or verdicts; no row at all.
  """
  where = "generate"
  check(settings, where)
  settings = sections.fill(settings, DEFAULTS, RULES, where)
  folder.mkdir(parents=True, exist_ok=True)
  if not hosts.first((folder / SUMMARY).is_file):
    _make(settings, folder, where)
  return hosts.first(lambda: _finish(folder))


def _finish(folder: Path) -> dict:
  """The summary; what the stage has no more use for goes."""
  for name in (drawing.FILE, *verdicts.FILES):
    (folder / name).unlink(missing_ok=True)
  return json.loads((folder / SUMMARY).read_text(encoding="utf-8"))


def _make(settings, folder: Path, where: str) -> None:
  """Leaves the files of the stage, the summary last."""
  kind = KINDS[settings.select]
  before = rows.earlier(
    settings.also, kind.layout, settings.data.on_bad_row, where
  )
  own = settings.gold or settings.select == "self_samples"
  asked = drawing.read_prompts(settings, own)
  drawn = drawing.draw(settings, asked, folder, where)
  fits = [n for n, row in enumerate(drawn) if row["texts"]]
  if not fits:
    raise data_error(
      f"{settings.data.source}: none of {len(drawn)} prompts leaves room for "
      f"max_new_tokens={settings.max_new_tokens}"
    )
  judged = verdicts.candidates(
    settings, [asked[n] for n in fits], [drawn[n] for n in fits]
  )
  judged, games, numbers = verdicts.judge(settings, judged, folder, where)
  found = selection.choose(
    settings.select, games, settings.min_margin, settings.seed
  )
  dropped = collections.Counter(prompt_too_long=len(drawn) - len(fits))
  dropped = +(dropped + found.dropped)
  new = [row for own in found.rows for row in own]
  if not new:
    reasons = ", ".join(f"{k} {n}" for k, n in sorted(dropped.items()))
    raise data_error(
      f"{settings.data.source}: none of {len(drawn)} prompts left a row "
      f"({reasons}); change select, the judge, or how samples are drawn"
    )
  result = outcome.summary(settings, judged, found, dropped, numbers)
  result["numbers"] |= {"rows": len(new), "rows_before": len(before)}
  _write(folder / SAMPLES, outcome.samples(settings, judged))
  _write(folder / ROWS, [*before, *new])
  checkpoint.write_json(folder / SUMMARY, result)


def _write(path: Path, made: list[dict]) -> None:
  checkpoint.write_text(path, "".join(json.dumps(r) + "\n" for r in made))
