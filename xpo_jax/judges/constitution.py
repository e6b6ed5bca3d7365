"""A language model that holds two answers against principles."""

import collections
from collections.abc import Sequence
import dataclasses

import numpy as np

from xpo_jax.data.records import Message
from xpo_jax.errors import usage_error
from xpo_jax.judges import pairwise, wording
from xpo_jax.judges.candidates import (
  Ask,
  Candidates,
  Judgement,
  PairJudge,
  Write,
)
from xpo_jax.judges.wording import Principle

ANSWERS = ("(A)", "(B)")
CLAMP = (0.4, 0.6)


@dataclasses.dataclass(frozen=True)
class Constitution:
  """Which principles, and how they are used.

  Attributes:
    principles: of `wording.principles`.
    votes: principles drawn for each pair; P is their mean.
    seed: of the draws; a pair's draw depends on it and the pair's texts only,
      and is the same in both orders.
  """

  principles: tuple[Principle, ...]
  votes: int = 1
  seed: int = 0

  def __post_init__(self):
    if not 1 <= self.votes <= len(self.principles):
      raise usage_error(
        f"votes={self.votes}: want 1 to {len(self.principles)} principles"
      )


def language_model(
  ask: Ask, constitution: Constitution, write: Write | None = None
) -> PairJudge:
  """Which of two answers keeps a principle better, (A) or (B)?

  With `write` the model first reasons, and every P that it then states is cut
  to [0.4, 0.6]: after reasoning it is near 0 or 1, which makes training
  unstable. Without reasoning P stays as it is.

  Args:
    ask: log-probs of both answers.
    constitution: the principles.
    write: the model as a greedy writer, for a chain of thought.

  Source: Bai et al. 2022, arXiv 2212.08073, section 4.1; methods.md 3.1.
  """

  def judge(candidates: Candidates) -> Judgement:
    found = _first(candidates, ask, constitution, write)
    return pairwise.judgement(candidates, *found)

  return judge


def _first(candidates, ask, constitution, write):
  """P(i beats j | i shown as A) [B, K, K], and the reasons of NaN."""
  places = pairwise.ordered_pairs(candidates)
  drawn = [
    (place, constitution.principles[index])
    for place in places
    for index in principle_indices(candidates, place, constitution)
  ]
  name = "principle_reason" if write else "principle"
  prompts = [_question(name, candidates, *own) for own in drawn]
  alive, invalid = [True] * len(prompts), collections.Counter()
  if write:
    replies = write([(prompt, 0) for prompt in prompts])
    for n, reply in enumerate(replies):
      alive[n] = reply is not None and reply.whole and bool(reply.text.strip())
      if alive[n]:
        prompts[n] = _decide(prompts[n], reply.text)
  kept = [n for n, good in enumerate(alive) if good]
  p = np.full(len(prompts), np.nan)
  for n, logps in zip(
    kept, ask([(prompts[n], ANSWERS) for n in kept]), strict=True
  ):
    p[n] = pairwise.first_answer(logps)
  p = np.clip(p, *CLAMP) if write else p
  shape = (*candidates.shape, candidates.shape[1])
  first = np.full(shape, np.nan)
  for place, own in zip(places, p.reshape(-1, constitution.votes), strict=True):
    first[place] = own.mean()
    reason = "not_finite" if all(alive) else "no_reasons"
    invalid[reason] += bool(np.isnan(first[place]))
  return first, +invalid


def principle_indices(
  candidates: Candidates, place: tuple[int, int, int], it: Constitution
) -> Sequence[int]:
  """Distinct principles of a pair, by the seed and both texts."""
  b, i, j = place
  texts = sorted((candidates.texts[b][i], candidates.texts[b][j]))
  whole = "\0".join([wording.quote(candidates.prompts[b]), *texts])
  entropy = [it.seed, *whole.encode("utf-8", "surrogatepass")]
  noise = np.random.default_rng(entropy)
  return noise.permutation(len(it.principles))[: it.votes].tolist()


def _question(name, candidates, place, principle: Principle):
  b, i, j = place
  texts = candidates.texts[b]
  return wording.ask(
    name,
    prompt=candidates.prompts[b],
    first=texts[i],
    second=texts[j],
    plain={"principle": principle.compare},
  )


def _decide(asked, reasons: str):
  """The conversation that ends in the question which one it is."""
  decide = wording.read("principle_decide")
  return (*asked, Message("assistant", reasons), Message("user", decide))
