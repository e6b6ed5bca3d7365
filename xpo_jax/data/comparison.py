"""A pair as a question: which of two texts is better, A or B?

The one place where the question of a pairwise preference model is worded, for
the `plain` and the `chat` template alike: it is one user turn, the answer a
letter. The texts are shown as JSON, so that none of them can end early and
speak for itself.
"""

from collections.abc import Sequence
import dataclasses
import json

import numpy as np

from xpo_jax.data import dialogues
from xpo_jax.data.records import Group, Message, Prompt

ANSWERS = ("A", "B")
QUESTION = """\
Here are a prompt and two texts that continue it.
Prompt: {prompt}
A: {first}
B: {second}
Which text is better? Answer with A or B."""


def question(prompt: Prompt, first: str, second: str) -> Prompt:
  """The prompt that shows `first` as A and `second` as B."""
  quoted = lambda text: json.dumps(text.strip(), ensure_ascii=False)
  text = QUESTION.format(
    prompt=quoted(dialogues.as_text(prompt, cue=False)),
    first=quoted(first),
    second=quoted(second),
  )
  return (Message("user", text),)


def to_comparisons(groups: Sequence[Group], seed: int) -> list[Group]:
  """Pairs as questions, each with its two possible answers as completions.

  Which text is shown as A is drawn by `seed`. Completion 0 is always the answer
  that names the pair's completion 0, so that the feedback keeps its meaning:
  ORDER has the right answer first, PROBABILITY [p, 1 - p] that of the answers.

  Args:
    groups: K = 2, ORDER or PROBABILITY feedback.
    seed: of the order.
  """
  swapped = np.random.default_rng(seed).random(len(groups)) < 0.5
  return [_comparison(g, swap) for g, swap in zip(groups, swapped, strict=True)]


def _comparison(group: Group, swap: bool) -> Group:
  order = (1, 0) if swap else (0, 1)
  shown = (group.completions[k] for k in order)
  return dataclasses.replace(
    group,
    prompt=question(group.prompt, *shown),
    completions=tuple(ANSWERS[place] for place in order),
    ratings=(),
    ended=(),
  )
