"""How many replies were no verdict, over a whole run, and when to stop."""

import collections
import dataclasses

import numpy as np

from xpo_jax.errors import numeric_error
from xpo_jax.judges.candidates import Candidates, Judgement


@dataclasses.dataclass(frozen=True)
class Tally:
  """Replies asked for so far, and the reasons of the invalid ones."""

  asked: int = 0
  reasons: tuple[tuple[str, int], ...] = ()

  @property
  def invalid(self) -> int:
    return sum(count for _, count in self.reasons)

  def add(self, judgement: Judgement) -> "Tally":
    """With the replies of one more batch."""
    reasons = collections.Counter(dict(self.reasons)) + judgement.invalid
    return Tally(self.asked + judgement.asked, tuple(sorted(reasons.items())))

  def check(self, max_invalid: float, name: str = "judge") -> None:
    """Stops a run whose judge cannot be read.

    Of fewer than 100 replies so many may be invalid as of 100: a judge that
    never parses is stopped early, one unlucky reply is not fatal.

    Args:
      max_invalid: share of the replies, 0..1.
      name: of the judge, for the message.

    Raises:
      XpoError: (70) more are invalid.
    """
    if self.invalid > max_invalid * max(self.asked, 100):
      reasons = ", ".join(f"{reason} {n}" for reason, n in self.reasons)
      raise numeric_error(
        f"{name}: {self.invalid} of {self.asked} replies are invalid "
        f"({reasons}), more than max_invalid={max_invalid:g}; mend the judge "
        "or raise max_invalid"
      )

  def metrics(self) -> dict[str, float]:
    """judge/invalid, the share so far."""
    return {"judge/invalid": self.invalid / max(1, self.asked)}


def valid(judgement: Judgement, candidates: Candidates) -> np.ndarray:
  """bool [B, K]: there, and with a finite score (a pair judge: any P)."""
  finite = np.isfinite(judgement.scores)
  if finite.ndim == 3:
    others = ~np.eye(finite.shape[-1], dtype=bool)
    finite = (finite & others).any(-1)
  return candidates.present & finite
