"""Models that score one completion at a time, in ids of their own.

A reward model's head and the implicit reward beta log(pi / ref) of a policy are
the same judge: texts become the model's own ids, so that it may have another
tokenizer than the policy that wrote them.
"""

import collections
from collections.abc import Sequence

import numpy as np

from xpo_jax.data.records import Prompt, TokenGroup
from xpo_jax.data.templates import Template
from xpo_jax.judges.candidates import Candidates, Judge, Judgement, Score
from xpo_jax.types import Feedback


def make_judge(score: Score, template: Template, room: int) -> Judge:
  """A judge from a function of token groups.

  A prompt with the longest of its completions that is over `room` tokens is
  "too_long" for the model and gets no scores.

  Args:
    score: [K] scores of the completions of each group.
    template: how texts become the model's ids.
    room: tokens of prompt and one completion together.
  """

  def judge(candidates: Candidates) -> Judgement:
    groups = token_groups(candidates, template)
    fits = [b for b, g in groups.items() if _longest(g) <= room]
    scores, invalid = np.full(candidates.shape, np.nan), collections.Counter()
    found = score([groups[b] for b in fits]) if fits else []
    for b, own in zip(fits, found, strict=True):
      scores[b, candidates.present[b]] = own
    asked = int(candidates.present.sum())
    long = sum(len(groups[b].completions) for b in groups if b not in fits)
    invalid["too_long"] = long
    scores = np.where(np.isfinite(scores), scores, np.nan)
    missing = int(np.isnan(scores[candidates.present]).sum())
    invalid["not_finite"] = missing - long
    return Judgement(scores, asked, +invalid)

  return judge


def token_groups(
  candidates: Candidates, template: Template
) -> dict[int, TokenGroup]:
  """b -> the ids of its present completions; prompts with none are left out.

  A completion that ended gets the template's end, one that was cut does not.
  """
  groups = {}
  for b, prompt in enumerate(candidates.prompts):
    here = np.flatnonzero(candidates.present[b])
    if len(here):
      texts = [candidates.texts[b][k] for k in here]
      ended = [bool(candidates.ended[b, k]) for k in here]
      groups[b] = token_group(template, prompt, texts, ended, f"prompt {b}")
  return groups


def token_group(
  template: Template,
  prompt: Prompt,
  texts: Sequence[str],
  ended: Sequence[bool],
  name: str,
) -> TokenGroup:
  """One prompt and its completions as ids, with the end where they ended."""
  pieces = [np.concatenate(template.completion(prompt, [t])) for t in texts]
  end = np.asarray([template.end_id], np.int32)
  # A completion without a token would be absent; its end at least is there.
  own = [
    np.concatenate([ids, end]) if stop or not len(ids) else ids
    for ids, stop in zip(pieces, ended, strict=True)
  ]
  return TokenGroup(
    id=name,
    cluster="",
    prompt=np.asarray(template.prompt(prompt), np.int32),
    completions=tuple(np.asarray(ids, np.int32) for ids in own),
    ended=tuple(ended),
    feedback=(0.0,) * len(own),
    kind=Feedback.SCORE,
  )


def _longest(group: TokenGroup) -> int:
  return len(group.prompt) + max(map(len, group.completions))
