"""Answers that a model criticises and rewrites, a principle at a time.

Source: Bai et al. 2022, arXiv 2212.08073, section 3.1; methods.md 3.1.
"""

import collections
from collections.abc import Sequence
import functools
import json
from typing import NamedTuple

import numpy as np

from xpo_jax.data.records import Message, Prompt
from xpo_jax.judges import wording
from xpo_jax.judges.candidates import Write
from xpo_jax.judges.wording import Principle


class Step(NamedTuple):
  """One step of a chain.

  `problem` is "" or why the answer stayed as it was: no_critique or no_revision
  (no reply, an empty one, or one that was cut off).
  """

  principle: str  # its id
  critique: str  # "" where none was asked for, or none came
  revision: str  # the answer after this step
  problem: str = ""


class Example(NamedTuple):
  """A worked step, shown to the model before it is asked for one."""

  principle: str  # id
  prompt: str
  answer: str
  critique: str
  revision: str


def revise(
  write: Write,
  prompts: Sequence[Prompt],
  answers: Sequence[str],
  principles: Sequence[Principle],
  steps: int = 4,
  seed: int = 0,
  skip_critique: bool = False,
  first: int = 0,
  examples: Sequence[tuple[Principle, Example]] = (),
) -> list[list[Step]]:
  """y_k = model(x, y_{k-1}, critique of y_{k-1}), k = 1..steps.

  Args:
    write: the model.
    prompts: B conversations x.
    answers: B first answers y_0.
    principles: one of them is drawn for every step, see `principle_indices`.
    steps: of every chain; 0 gives empty chains.
    seed: of the draws, >= 0.
    skip_critique: ask for the revision at once: half as many requests.
    first: number of prompts[0] among all prompts, >= 0.
    examples: worked steps and their principles, shown before every request.

  Returns:
    [B][steps].
  """
  drawn = [
    principle_indices(seed, first + n, steps, len(principles))
    for n in range(len(prompts))
  ]
  chains: list[list[Step]] = [[] for _ in prompts]
  current = list(answers)
  for k in range(steps):
    own = [principles[indices[k]] for indices in drawn]
    asked = list(zip(prompts, current, own, strict=True))
    critiques = [""] * len(asked)
    alive = list(range(len(asked)))
    if not skip_critique:
      critiques = _texts(write, [_critique(*a, examples) for a in asked], k)
      alive = [n for n in alive if critiques[n]]
    questions = [_revision(*asked[n], critiques[n], examples) for n in alive]
    revisions = dict(zip(alive, _texts(write, questions, k), strict=True))
    for n, chain in enumerate(chains):
      found = revisions.get(n, "")
      current[n] = found or current[n]
      why = "no_revision" if n in revisions else "no_critique"
      problem = "" if found else why
      chain.append(Step(own[n].id, critiques[n], current[n], problem))
  return chains


def principle_indices(
  seed: int, number: int, steps: int, count: int
) -> list[int]:
  """`steps` uniform draws out of `count`, by the seed and the prompt's number.

  The draws of fewer steps are the first of more.
  """
  noise = np.random.default_rng([seed, number])
  return [int(noise.integers(count)) for _ in range(steps)]


def final_answers(
  answers: Sequence[str], chains: Sequence[Sequence[Step]]
) -> list[str]:
  """The last answer of every chain; the first answer where it has no step."""
  pairs = zip(answers, chains, strict=True)
  return [chain[-1].revision if chain else own for own, chain in pairs]


def problems(chains: Sequence[Sequence[Step]]) -> collections.Counter:
  """Reason -> steps that kept the answer before."""
  return collections.Counter(s.problem for c in chains for s in c if s.problem)


@functools.cache
def worked_examples() -> tuple[tuple[Principle, Example], ...]:
  """Our own worked steps, each with its principle."""
  ours = {own.id: own for own in wording.principles()}
  text = (wording.FOLDER / "revision_examples.json").read_text(encoding="utf-8")
  found = [Example(**row) for row in json.loads(text)]
  return tuple((ours[own.principle], own) for own in found)


def _critique(prompt, answer, principle: Principle, examples=()):
  """The request for a critique, after the worked ones."""
  turns = [
    turn
    for own, e in examples
    for turn in (
      *_critique(e.prompt, e.answer, own),
      Message("assistant", e.critique),
    )
  ]
  plain = {"principle": principle.critique}
  own = wording.ask("critique", prompt=prompt, answer=answer, plain=plain)
  return (*turns, *own)


def _revision(prompt, answer, principle: Principle, critique, examples=()):
  """The request for a revision; without a critique if that is ""."""
  turns = [
    turn
    for own, e in examples
    for turn in (
      *_revision(e.prompt, e.answer, own, critique and e.critique),
      Message("assistant", e.revision),
    )
  ]
  texts = {"prompt": prompt, "answer": answer}
  if critique:
    texts["critique"] = critique
  name, plain = "revise" if critique else "revise_only", principle.revise
  return (*turns, *wording.ask(name, plain={"principle": plain}, **texts))


def _texts(write: Write, questions: Sequence[Prompt], number: int) -> list[str]:
  """The reply to each question, "" for none or one that was cut off."""
  if not questions:
    return []
  replies = write([(question, number) for question in questions])
  return [
    reply.text.strip() if reply is not None and reply.whole else ""
    for _, reply in zip(questions, replies, strict=True)
  ]
