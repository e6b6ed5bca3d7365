"""A stage that makes demonstrations out of critiques and revisions.

A policy answers prompts, then criticises and rewrites its own answers by the
principles of a constitution; the revisions are what a later stage imitates.

Source: Bai et al. 2022, arXiv 2212.08073, section 3; methods.md 3.1.
"""

import collections
from collections.abc import Sequence
import itertools
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from xpo_jax import checkpoint, judging
from xpo_jax.data import load, templates
from xpo_jax.data.records import Prompt
from xpo_jax.errors import data_error
from xpo_jax.judges import revision, wording
from xpo_jax.judges.candidates import Reply, Write
from xpo_jax.judges.wording import Principle
from xpo_jax.judging import Reader
from xpo_jax.score_rows import plain_prompt
from xpo_jax.stages import drawing, rows, slices
from xpo_jax.stages import section as sections

CHAINS, ROWS = "chains.jsonl", "data.jsonl"
SHOWN = 4  # samples in the report
DEFAULTS = {
  "revisions": 4,  # steps of a chain
  "policy": "",  # a run, export or preset
  "data": sections.DATA,  # where the prompts are
  "prompts": 0,  # so many; 0: all
  "first": 0,  # after so many that are left out
  "principles": "",  # a file; "": ours
  "skip_critique": False,
  "examples": 0,  # worked steps before every request
  "keep": "all",  # every revision of a chain, or only the last
  "lead": "",  # before every revision: a space, where data have one there
  "max_new_tokens": 128,
  "temperature": 1.0,
  "template": "auto",
  "seed": 0,
  "prompts_at_once": 16,
  "also": (),  # files of demonstrations to mix in
}
RULES = (
  sections.at_least("revisions", 1),
  sections.required("policy", "a run, an export or a preset"),
  sections.required("data.source", "a path or films"),
  sections.choice("data.on_bad_row", "error", "skip"),
  sections.at_least("prompts", 0),
  sections.at_least("first", 0),
  ("examples", lambda n: 0 <= n <= 2, "0, 1 or 2"),
  sections.choice("keep", "all", "last"),
  sections.at_least("max_new_tokens", 1),
  sections.at_least("temperature", 0.0),
  sections.choice("template", "auto", *templates.TEMPLATES),
  ("seed", lambda n: 0 <= n < 2**31, "in [0, 2**31)"),
  sections.at_least("prompts_at_once", 1),
)


def section(**keywords: Any) -> ConfigDict:
  """The settings with these keys and the defaults of the others.

  Raises:
    XpoError: (64) an unknown key, or a value of another type.
  """
  return ConfigDict(sections.fill(keywords, DEFAULTS, (), "revise").to_dict())


def check(settings: Any, where: str) -> None:
  """What can be wrong before anything starts.

  Raises:
    XpoError: (64) a key, type or range, (65) a bad file of principles.
  """
  chosen = sections.fill(settings, DEFAULTS, RULES, where)
  _principles(chosen)


def run(settings: Any, folder: Path) -> dict:
  """Makes `chains.jsonl` and, out of it, `data.jsonl`.

  A slice of prompts at a time is appended to `chains.jsonl`, so that a killed
  run goes on where it was and leaves the same bytes.

  Args:
    settings: see DEFAULTS.
    folder: of the stage.

  Returns:
    {"tables", "samples"} as in report.py, and "numbers".

  Raises:
    XpoError: no prompts, no revision at all, or files of another run.
  """
  settings = sections.fill(settings, DEFAULTS, RULES, "revise")
  folder.mkdir(parents=True, exist_ok=True)
  principles = _principles(settings)
  also = rows.earlier(
    settings.also, "demonstrations", settings.data.on_bad_row, "revise"
  )
  reader = judging.open_reader(settings.policy, settings.template)
  prompts, too_long = _prompts(settings, reader)
  size, path = settings.prompts_at_once, folder / CHAINS

  def make(at: int) -> list[dict]:
    write, part = writer(reader, settings, at), prompts[at : at + size]
    return chain_rows(write, part, principles, settings, at)

  chains = slices.grow(path, prompts, size, "revisions", make)
  texts = [
    d for row in chains for d in completions(row, settings.keep, settings.lead)
  ]
  if not texts and not also:
    raise data_error(
      f"{path}: no reply was a revision; raise max_new_tokens="
      f"{settings.max_new_tokens}, or take a model that follows instructions"
    )
  lines = [json.dumps(row) + "\n" for row in (*texts, *also)]
  checkpoint.write_text(folder / ROWS, "".join(lines))
  return _summary(chains, too_long, len(texts), len(also))


def _principles(settings) -> tuple[Principle, ...]:
  own = settings.principles
  return wording.principles(own) if own else wording.principles()


def _prompts(settings, reader: Reader) -> tuple[list[Prompt], int]:
  """The prompts that leave room for an answer, and how many do not."""
  first = settings.first
  limit = first + settings.prompts if settings.prompts else 0
  every = load.prompts(settings.data, limit)
  found = [g.prompt for g in every[first:]]
  room = reader.model.model.config.max_length - settings.max_new_tokens
  fits = [p for p in found if 0 < len(reader.template.prompt(p)) <= room]
  if not fits:
    raise data_error(
      f"{settings.data.source}: none of {len(found)} prompts from number "
      f"{first} leaves room for max_new_tokens={settings.max_new_tokens}"
    )
  source, wanted = settings.data.source, settings.prompts
  drawing.tell_of_few(source, len(every), first, wanted)
  return fits, len(found) - len(fits)


def writer(reader: Reader, settings: Any, at: int) -> Write:
  """The policy as a writer whose every call has noise of its own.

  The noise follows from the seed, the slice's first prompt and the number of
  the call in the slice, whatever was computed before.
  """
  calls = itertools.count()

  def write(requests: Sequence[tuple[Prompt, int]]) -> list[Reply | None]:
    noise = np.random.SeedSequence([settings.seed, at, next(calls)])
    ask = reader.write(
      settings.max_new_tokens,
      settings.temperature,
      seed=int(noise.generate_state(1)[0] >> 2),
    )
    return ask([(prompt, n) for n, (prompt, _) in enumerate(requests)])

  return write


def chain_rows(
  write: Write,
  prompts: Sequence[Prompt],
  principles: Sequence[Principle],
  settings: Any,
  at: int,
) -> list[dict]:
  """The rows of `chains.jsonl` of prompts number `at` and on."""
  found = [own or Reply("", False) for own in write([(p, 0) for p in prompts])]
  chains = revision.revise(
    write,
    prompts,
    [own.text for own in found],
    principles,
    settings.revisions,
    settings.seed,
    settings.skip_critique,
    at,
    revision.worked_examples()[: settings.examples],
  )
  column = lambda chain, name: [getattr(step, name) for step in chain]
  return [
    {
      "prompt": plain_prompt(prompt),
      "answer": own.text,
      "ended": own.whole,
      "principles": column(chain, "principle"),
      "critiques": column(chain, "critique"),
      "revisions": column(chain, "revision"),
      "problems": column(chain, "problem"),
    }
    for prompt, own, chain in zip(prompts, found, chains, strict=True)
  ]


def completions(row: dict, keep: str, lead: str = "") -> list[dict]:
  """The demonstrations of a chain: its revisions, never the first answer.

  A step that kept the answer before gives none. After a text prompt a revision
  begins with `lead`, or with a space if the policy's own answer did.
  """
  steps = zip(row["revisions"], row["problems"], strict=True)
  good = [text for text, problem in steps if not problem]
  if not isinstance(row["prompt"], str):
    lead = ""
  elif not lead and row["answer"].startswith(" "):
    lead = " "
  return [
    {"prompt": row["prompt"], "completion": f"{lead}{text}"}
    for text in (good if keep == "all" else good[-1:])
  ]


def _summary(chains, too_long: int, revisions: int, also: int) -> dict:
  kept = collections.Counter(p for c in chains for p in c["problems"] if p)
  numbers = {
    "prompts": len(chains),
    "prompts too long": too_long,
    "first answers cut": sum(not row["ended"] for row in chains),
    "steps": sum(len(row["problems"]) for row in chains),
    "steps without a critique": kept["no_critique"],
    "steps without a revision": kept["no_revision"],
    "revisions kept": revisions,
    "other demonstrations": also,
  }
  samples = [
    {
      "prompt": _shown(row["prompt"]),
      "texts": {
        "first answer": row["answer"],
        "last revision": row["revisions"][-1],
      },
      "scores": {},
    }
    for row in chains[:SHOWN]
  ]
  table = {
    "title": "Critiques and revisions",
    "columns": ["what", "number"],
    "rows": [[name, str(n)] for name, n in numbers.items()],
  }
  return {"tables": [table], "samples": samples, "numbers": numbers}


def _shown(prompt: str | list[dict]) -> str:
  if isinstance(prompt, str):
    return prompt
  return "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)
