"""Answers that say nothing: they cannot win, and no judge is asked about them.

Some judges are won over by a colon, by an opener without an answer, or by one
text for every prompt.
"""

import collections
import dataclasses
import re

import numpy as np

from xpo_jax.judges.candidates import Candidates, Judge, Judgement

_OPENER = re.compile(r"[\w' ]{1,40}:")
_MANY = 3  # prompts that a text must answer to count as one for all of them


def says_nothing(text: str) -> bool:
  """No letter or digit in it, or only an opener such as "My reasons:"."""
  text = text.strip()
  return not re.search(r"[^\W_]", text) or bool(_OPENER.fullmatch(text))


def flagged(candidates: Candidates) -> np.ndarray:
  """bool [B, K]: says nothing, or the same text for most prompts.

  The same text counts when it stands under at least three prompts and under
  more than half of them all. Do not use it where answers are short by nature
  (multiple choice, yes or no).
  """
  under = collections.defaultdict(set)
  for b, k in candidates.places():
    under[candidates.texts[b][k].strip()].add(candidates.prompts[b])
  number = len(set(candidates.prompts))
  constant = {
    text
    for text, prompts in under.items()
    if len(prompts) >= _MANY and 2 * len(prompts) > number
  }
  out = np.zeros(candidates.shape, bool)
  for b, k in candidates.places():
    text = candidates.texts[b][k]
    out[b, k] = says_nothing(text) or text.strip() in constant
  return out


def guarded(judge: Judge) -> Judge:
  """The judge (or pair judge), asked about all that is not flagged.

  Flagged completions get NaN; metric judge/flagged is their share.
  """

  def guard(candidates: Candidates) -> Judgement:
    out = flagged(candidates)
    rest = dataclasses.replace(candidates, present=candidates.present & ~out)
    found = judge(rest)
    share = out.sum() / max(1, candidates.present.sum())
    return found._replace(
      metrics=found.metrics | {"judge/flagged": float(share)}
    )

  return guard
