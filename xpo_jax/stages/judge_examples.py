"""A stage that makes examples of judging out of texts that people rated.

They teach a model to follow the additive judge's question, before it judges its
own answers.

Source: Yuan et al. 2024, arXiv 2401.10020, section 2.1 (its EFT seed data);
methods.md 6.1.
"""

import collections
from collections.abc import Sequence
import functools
import json
import math
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from xpo_jax import checkpoint
from xpo_jax.data import load
from xpo_jax.data.records import Group
from xpo_jax.errors import data_error, usage_error
from xpo_jax.judges import wording
from xpo_jax.stages import rows
from xpo_jax.stages import section as sections
from xpo_jax.types import Feedback

ROWS = "data.jsonl"
POINTS = 5
DEFAULTS = {
  "rated": sections.DATA,  # rows with ratings or scores, or films
  "low": 0.0,  # the mean rating that gets 0 points
  "high": 0.0,  # the one that gets 5
  "each": 0,  # examples of one number of points at most; 0: all
  "seed": 0,
}
RULES = (
  sections.required("rated.source", "a path or films"),
  sections.choice("rated.on_bad_row", "error", "skip"),
  sections.at_least("each", 0),
  ("seed", lambda n: 0 <= n < 2**31, "in [0, 2**31)"),
)


def section(**keywords: Any) -> ConfigDict:
  """The settings with these keys and the defaults of the others.

  Raises:
    XpoError: (64) an unknown key, or a value of another type.
  """
  return ConfigDict(
    sections.fill(keywords, DEFAULTS, (), "judge_examples").to_dict()
  )


def check(settings: Any, where: str) -> None:
  """What can be wrong before anything starts.

  Raises:
    XpoError: (64) a key, type or range.
  """
  chosen = sections.fill(settings, DEFAULTS, RULES, where)
  if not chosen.low < chosen.high:
    raise usage_error(
      f"{where}.low={chosen.low:g}, high={chosen.high:g}: give the mean "
      "ratings that get 0 and 5 points, low < high"
    )


def run(settings: Any, folder: Path) -> dict:
  """Makes `data.jsonl`, demonstrations of judging.

  Args:
    settings: see DEFAULTS.
    folder: of the stage.

  Returns:
    {"tables", "samples"} as in report.py, and "numbers": points -> examples.

  Raises:
    XpoError: rows without ratings or scores.
  """
  check(settings, "judge_examples")
  settings = sections.fill(settings, DEFAULTS, RULES, "judge_examples")
  folder.mkdir(parents=True, exist_ok=True)
  groups = _rated(settings.rated, settings.seed)
  every = evaluation_examples(
    groups, settings.low, settings.high, settings.seed
  )
  kept = at_most(every, settings.each)
  made = [
    rows.make_row("demonstrations", g.prompt, g.completions) for g in kept
  ]
  lines = [json.dumps(row) + "\n" for row in made]
  checkpoint.write_text(folder / ROWS, "".join(lines))
  found = collections.Counter(_last_line(g) for g in kept)
  numbers = {str(n): found[f"Score: {n}"] for n in range(POINTS + 1)}
  table = {
    "title": f"Examples of judging, out of {len(every)} rated texts",
    "columns": ["points", "examples"],
    "rows": [[points, str(n)] for points, n in numbers.items()],
  }
  return {"tables": [table], "samples": [], "numbers": numbers}


def evaluation_examples(
  groups: Sequence[Group], low: float, high: float, seed: int = 0
) -> list[Group]:
  """Rated texts as demonstrations of the additive judge.

  The question is that of `written.additive`; the reply is one of our own
  sentences for that number of points and "Score: n", n = 5 (mean - low) /
  (high - low), cut to [0, 5] and rounded, halves up.

  Args:
    groups: SCORE feedback: the scores or mean ratings of K texts.
    low: the score that gets 0 points.
    high: the score that gets 5, > low.
    seed: of the choice of sentences, >= 0.

  Returns:
    one group a text, in order.

  Raises:
    XpoError: (65) groups of another kind.
  """
  noise, out = np.random.default_rng(seed), []
  for group in groups:
    if group.kind is not Feedback.SCORE:
      raise data_error(
        f"{group.id}: {group.kind.name} feedback; examples of judging want "
        "rows with ratings, scores or a score"
      )
    texts = zip(group.completions, group.feedback, strict=True)
    for k, (text, score) in enumerate(texts, 1):
      points = points_of(score, low, high)
      sentences = _sentences()[points]
      reason = sentences[noise.integers(len(sentences))]
      out.append(
        Group(
          id=f"{group.id}/{k}",
          prompt=wording.ask("additive", prompt=group.prompt, answer=text),
          completions=(f"{reason}\nScore: {points}",),
          feedback=(1.0,),
          kind=Feedback.DEMONSTRATION,
          cluster=group.cluster or group.id,
        )
      )
  return out


def points_of(score: float, low: float, high: float) -> int:
  """0..5; see `evaluation_examples`."""
  share = min(1.0, max(0.0, (score - low) / (high - low)))
  return math.floor(POINTS * share + 0.5)


def at_most(examples: Sequence[Group], each: int) -> list[Group]:
  """The first `each` examples of every number of points; 0: all of them."""
  seen, out = collections.Counter(), []
  for own in examples:
    seen[_last_line(own)] += 1
    if not each or seen[_last_line(own)] <= each:
      out.append(own)
  return out


def _last_line(example: Group) -> str:
  return example.completions[0].rpartition("\n")[2]


@functools.cache
def _sentences() -> list[list[str]]:
  """For every number of points, what can be said of such an answer."""
  path = wording.FOLDER / "justifications.json"
  return json.loads(path.read_text(encoding="utf-8"))


def _rated(data, seed: int) -> list[Group]:
  """Lists with the mean ratings of their texts."""
  films = data.source == "films" and data.format == "auto"
  config = ConfigDict(
    {
      **data.to_dict(),
      "format": "lists" if films else data.format,
      "min_gap": 1.0,
      "threshold": 0.0,
      "limit": 0,
    }
  )
  groups, _ = load.load(config, seed=seed)
  return groups
