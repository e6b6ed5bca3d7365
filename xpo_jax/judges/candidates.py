"""What a judge sees, what it says, and the models that it may ask.

A judge gives one number a completion, a pair judge P(i beats j). A model is a
function here, so that a table can stand in for it.

Letters: B prompts, K completions.
"""

import collections
from collections.abc import Callable, Sequence
import dataclasses
from typing import NamedTuple

import numpy as np

from xpo_jax.data.records import Prompt, TokenGroup


@dataclasses.dataclass(frozen=True)
class Candidates:
  """Completions on the host: the `Samples` of a rollout as texts.

  `ended` is False where the sampler ran out of tokens.
  """

  prompts: tuple[Prompt, ...]  # [B]
  texts: tuple[tuple[str, ...], ...]  # [B][K]
  present: np.ndarray  # bool [B, K]
  ended: np.ndarray  # bool [B, K]

  def __post_init__(self):
    shapes = {(len(self.texts), len(own)) for own in self.texts}
    shapes |= {self.present.shape, self.ended.shape}
    if len(shapes) > 1 or len(self.prompts) != len(self.texts):
      raise ValueError(f"{len(self.prompts)} prompts, shapes {shapes}")

  @property
  def shape(self) -> tuple[int, int]:
    return self.present.shape

  def places(self) -> list[tuple[int, int]]:
    """(b, k) of every completion that is there."""
    return [(int(b), int(k)) for b, k in np.argwhere(self.present)]


def make_candidates(
  prompts: Sequence[Prompt],
  texts: Sequence[Sequence[str]],
  present: np.ndarray | None = None,
  ended: np.ndarray | None = None,
) -> Candidates:
  """Texts [B][K]; all are there and ended unless said otherwise."""
  every = np.ones((len(texts), len(texts[0])), bool)
  as_mask = lambda x: every if x is None else np.asarray(x, bool)
  return Candidates(
    tuple(prompts), tuple(map(tuple, texts)), as_mask(present), as_mask(ended)
  )


class Judgement(NamedTuple):
  """A judge's numbers, and how its replies went.

  A reply that is no verdict leaves NaN, never a number by default; `invalid`
  counts the reasons.
  """

  scores: np.ndarray  # f64 [B, K], or [B, K, K] with P(i beats j)
  asked: int  # replies
  invalid: collections.Counter  # reason -> replies
  metrics: dict[str, float] = {}


Judge = Callable[[Candidates], Judgement]
PairJudge = Callable[[Candidates], Judgement]

# Log-probs of the possible answers, each with its terminator, after a prompt.
# Without one, "1" would also be the beginning of "10".
Ask = Callable[[Sequence[tuple[Prompt, Sequence[str]]]], list[np.ndarray]]


class Reply(NamedTuple):
  """A text that a model wrote; `whole` is False if it was cut off."""

  text: str
  whole: bool = True


# One reply a prompt; the number tells repeated requests apart. None: no reply.
Write = Callable[[Sequence[tuple[Prompt, int]]], list[Reply | None]]

# Scores [K] of the completions of each group.
Score = Callable[[Sequence[TokenGroup]], list[np.ndarray]]
