"""A stage that has a policy write new prompts after examples of others.

Every request shows some of the examples as a numbered list, and the next line
of the list is a new prompt, if it passes the rules of Self-Instruct.

Source: Yuan et al. 2024, arXiv 2401.10020, section 2.2 (self-instruction
creation); methods.md 6.1.
"""

import collections
from collections.abc import Sequence
import json
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict
import numpy as np

from xpo_jax import checkpoint, judging
from xpo_jax.data import load, new_prompts, templates
from xpo_jax.data.new_prompts import Pool, Rules
from xpo_jax.data.records import Prompt
from xpo_jax.errors import XpoError, data_error, usage_error
from xpo_jax.judging import Reader
from xpo_jax.rollout import requests
from xpo_jax.stages import section as sections
from xpo_jax.stages import slices

REPLIES, ROWS = "replies.jsonl", "data.jsonl"
SHOWN = 4  # samples in the report
DEFAULTS = {
  "shots": 8,  # examples in a request
  "policy": "",  # a run, export or preset
  "data": sections.DATA,  # where the examples are
  "heading": "Requests, no two of them alike:",  # before the examples
  "lead": "",  # what every prompt begins with, not shown to the policy
  "suffix": "",  # what every prompt ends with, likewise
  "prompts": 64,  # new ones; fewer are an error
  "requests": 256,  # at most, for one new prompt each
  "max_new_tokens": 64,
  "temperature": 1.0,
  "top_p": 1.0,
  "template": "auto",
  "seed": 0,
  "prompts_at_once": 16,
  "overlap": 0.7,  # ROUGE-L with a known prompt from which on it is no new one
  "min_words": 4,  # without lead and suffix
  "max_words": 150,
  "keywords": new_prompts.KEYWORDS,  # words of which a prompt has none
}
RULES = (
  sections.at_least("shots", 1),
  sections.required("policy", "a run, an export or a preset"),
  sections.required("data.source", "a path or films"),
  sections.choice("data.on_bad_row", "error", "skip"),
  sections.at_least("prompts", 1),
  sections.choice("template", "auto", *templates.TEMPLATES),
  ("seed", lambda n: 0 <= n < 2**31, "in [0, 2**31)"),
  sections.at_least("prompts_at_once", 1),
  ("overlap", lambda x: 0 < x <= 1, "in (0, 1]"),
  sections.at_least("min_words", 0),
)


class Examples(NamedTuple):
  """The prompts that there are, as a request shows them."""

  shown: list[str]  # of one line, without lead and suffix
  known: list[str]  # all that are texts or one turn
  turns: bool  # whether they are conversations
  total: int


def section(**keywords: Any) -> ConfigDict:
  """The settings with these keys and the defaults of the others.

  Raises:
    XpoError: (64) an unknown key, or a value of another type.
  """
  return ConfigDict(sections.fill(keywords, DEFAULTS, (), "propose").to_dict())


def check(settings: Any, where: str) -> None:
  """What can be wrong before anything starts.

  Raises:
    XpoError: (64) a key, type or range.
  """
  chosen = sections.fill(settings, DEFAULTS, RULES, where)
  try:
    requests.check(
      chosen.max_new_tokens, chosen.temperature, chosen.top_p, 1, 0
    )
  except XpoError as e:
    raise usage_error(f"{where}: {e}") from e
  for low, high in (("prompts", "requests"), ("min_words", "max_words")):
    if chosen[low] > chosen[high]:
      raise usage_error(
        f"{where}.{high}={chosen[high]}: must be >= {low}={chosen[low]}"
      )


def run(settings: Any, folder: Path) -> dict:
  """Makes `replies.jsonl` and, out of it, `data.jsonl`: rows of prompts.

  A slice of requests at a time is appended to `replies.jsonl`, until there are
  as many new prompts as wanted, so that a killed run goes on where it was and
  leaves the same bytes.

  Args:
    settings: see DEFAULTS.
    folder: of the stage.

  Returns:
    {"tables", "samples"} as in report.py, and "numbers".

  Raises:
    XpoError: too few examples, too few new prompts, or files of another run.
  """
  check(settings, "propose")
  settings = sections.fill(settings, DEFAULTS, RULES, "propose")
  folder.mkdir(parents=True, exist_ok=True)
  examples = _examples(settings)
  asked = make_requests(examples.shown, settings)
  rows, reasons = _draw(settings, asked, examples.known, folder / REPLIES)
  new = [
    (row["prompt"], new_prompts.parse(row["text"]))
    for row, reason in zip(rows, reasons, strict=True)
    if not reason
  ][: settings.prompts]
  dropped = collections.Counter(filter(None, reasons))
  dropped += {"not wanted": reasons.count("") - len(new)}
  if len(new) < settings.prompts:
    found = ", ".join(f"{k} {n}" for k, n in sorted(dropped.items()))
    raise data_error(
      f"{folder / REPLIES}: {len(new)} of prompts={settings.prompts} wanted "
      f"ones came of {len(rows)} replies (dropped: {found}); raise requests, "
      f"or max_new_tokens={settings.max_new_tokens}, or want fewer"
    )
  lines = [
    json.dumps({"prompt": _written(text, settings, examples.turns)}) + "\n"
    for _, text in new
  ]
  checkpoint.write_text(folder / ROWS, "".join(lines))
  return _summary(settings, examples, len(rows), new, dropped)


def _examples(settings) -> Examples:
  """The data's prompts of one turn.

  Raises:
    XpoError: (65) fewer than `shots` that can be shown.
  """
  prompts = [group.prompt for group in load.prompts(settings.data)]
  lead, suffix = settings.lead, settings.suffix
  shown, known = [], []
  for text in filter(None, map(_text, prompts)):
    bare = text.removeprefix(lead).removesuffix(suffix).strip()
    known.append(bare)
    whole = text.startswith(lead) and text.endswith(suffix)
    if whole and len(bare.splitlines()) == 1:
      shown.append(bare)
  if len(shown) < settings.shots:
    form = f", of the form {lead!r} .. {suffix!r}" if lead or suffix else ""
    raise data_error(
      f"{settings.data.source}: {len(shown)} of {len(prompts)} prompts can be "
      f"shown (one line{form}), fewer than shots={settings.shots}"
    )
  return Examples(shown, known, not isinstance(prompts[0], str), len(prompts))


def _text(prompt: Prompt) -> str:
  """A prompt without turns, or of a single one; "" for any other."""
  if isinstance(prompt, str):
    return prompt
  return prompt[0].content if [m.role for m in prompt] == ["user"] else ""


def make_requests(shown: Sequence[str], settings: Any) -> list[str]:
  """All requests: number n draws its examples by the seed and n alone."""
  out = []
  for n in range(settings.requests):
    noise = np.random.default_rng([settings.seed, n])
    places = noise.choice(len(shown), settings.shots, replace=False)
    out.append(
      new_prompts.request(settings.heading, [shown[i] for i in places])
    )
  return out


def _draw(settings, asked: list[str], known: list[str], path: Path):
  """Rows {prompt, text, ended} until enough are new, and why others are not.

  Every process stops where process 0 does.
  """
  size, pool = settings.prompts_at_once, Pool(known)
  bounds = settings.min_words, settings.max_words
  rules = Rules(settings.overlap, *bounds, settings.keywords)
  reader = judging.open_reader(settings.policy, settings.template)
  reasons: list[str] = []

  def enough(rows: list[dict]) -> bool:
    reasons.extend(_judge(rows[len(reasons) :], pool, rules))
    return reasons.count("") >= settings.prompts

  rows = slices.grow(
    path,
    asked,
    size,
    "new prompts",
    lambda at: _reply(reader, settings, asked[at : at + size], at),
    enough,
  )
  enough(rows)  # the last slice's reasons
  return rows, reasons


def _reply(reader: Reader, settings, part: list[str], at: int) -> list[dict]:
  """The replies to requests number `at` and on, one line each.

  The noise follows from the seed and `at`. A null for a text: the request
  leaves no room for one.
  """
  noise = np.random.SeedSequence([settings.seed, at])
  write = reader.write(
    settings.max_new_tokens,
    settings.temperature,
    settings.top_p,
    seed=int(noise.generate_state(1)[0] >> 2),
    stop=("\n",),
  )
  found = write([(text, n) for n, text in enumerate(part)])
  return [
    {
      "prompt": text,
      "text": own and own.text,
      "ended": bool(own and own.whole),
    }
    for text, own in zip(part, found, strict=True)
  ]


def _judge(rows: Sequence[dict], pool: Pool, rules: Rules) -> list[str]:
  """Why each reply is dropped, "" if it is a new prompt; the pool grows."""
  out = []
  for row in rows:
    if row["ended"]:
      out += new_prompts.keep_new([new_prompts.parse(row["text"])], pool, rules)
    else:
      out.append("cut off" if row["text"] is not None else "no room")
  return out


def _written(text: str, settings, turns: bool) -> str | list[dict]:
  """A new prompt in the form of the examples."""
  whole = f"{settings.lead}{text}{settings.suffix}"
  return [{"role": "user", "content": whole}] if turns else whole


def _summary(settings, examples: Examples, requests: int, new, dropped) -> dict:
  numbers = {
    "example prompts": examples.total,
    "of them in one line, to be shown": len(examples.shown),
    "requests": requests,
    "new prompts": len(new),
    **{f"dropped: {reason}": n for reason, n in sorted(dropped.items())},
  }
  table = {
    "title": f"New prompts, {settings.shots} examples a request",
    "columns": ["what", "number"],
    "rows": [[name, str(n)] for name, n in numbers.items()],
  }
  samples = [
    {"prompt": request, "texts": {"new prompt": text}, "scores": {}}
    for request, text in new[:SHOWN]
  ]
  return {"tables": [table], "samples": samples, "numbers": numbers}
