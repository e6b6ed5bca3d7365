"""Ratings of the same texts by several people: kinds of feedback, agreement.

Everything rests on the share of rater pairs, one rater of each text, that put
one text above the other, ties half.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import itertools
import math

import numpy as np

from xpo_jax.data.records import Group
from xpo_jax.errors import usage_error
from xpo_jax.types import Feedback

KINDS = ("pairs", "soft", "texts", "binary", "lists")
Ratings = Sequence[float]  # of one text, one number a rater


def mean(ratings: Ratings) -> float:
  """The mean rating."""
  return sum(ratings) / len(ratings)


def win_shares(texts: Sequence[Ratings]) -> np.ndarray:
  """[K, K]: the share of rater pairs that put text i above text j, ties half.

  It adds up to 1 with its transpose and is exact: counts, divided once.
  """
  values, codes = np.unique(np.concatenate(texts), return_inverse=True)
  sizes = np.array([len(own) for own in texts])
  owner = np.repeat(np.arange(len(texts)), sizes)
  counts = np.zeros((len(texts), len(values)), np.int64)
  np.add.at(counts, (owner, codes), 1)
  twice_below = 2 * np.cumsum(counts, axis=1) - counts
  return (counts @ twice_below.T) / (2 * sizes[:, None] * sizes[None, :])


def wide_pairs(means: Sequence[float], min_gap: float) -> list[tuple[int, int]]:
  """Places (better, worse) whose means differ by min_gap or more, best first.

  Raises:
    XpoError: (64) min_gap is not > 0.
  """
  if not min_gap > 0:
    raise usage_error(f"data.min_gap={min_gap}: want a number > 0")
  ranked = sorted(range(len(means)), key=lambda i: -means[i])
  return [
    (i, j)
    for i, j in itertools.combinations(ranked, 2)
    if means[i] - means[j] >= min_gap
  ]


def to_pairs(group: Group, min_gap: float, soft: bool = False) -> list[Group]:
  """All pairs of a rated list whose mean ratings are that far apart.

  Args:
    group: with `ratings`.
    min_gap: > 0, in rating points.
    soft: PROBABILITY feedback (`win_shares`) instead of ORDER.
  """
  shares = win_shares(group.ratings)
  kind = Feedback.PROBABILITY if soft else Feedback.ORDER
  return [
    group.pick(
      (i, j),
      (float(shares[i, j]), float(shares[j, i])) if soft else (1.0, 0.0),
      kind,
      f"{group.id}/{i + 1}>{j + 1}",
    )
    for i, j in wide_pairs([mean(own) for own in group.ratings], min_gap)
  ]


def ratings_to_soft(group: Group, min_gap: float) -> list[Group]:
  """`to_pairs` with the share of rater pairs as the probability."""
  return to_pairs(group, min_gap, soft=True)


def thumb(rating: float, threshold: float = 0.0, neutral: float = 0.0) -> float:
  """+1 above the threshold, -1 below, 0 at it or less than `neutral` off."""
  off = rating - threshold
  return 0.0 if abs(off) < neutral else float(np.sign(off))


def to_binary(
  group: Group, threshold: float = 0.0, neutral: float = 0.0
) -> list[Group]:
  """A row a text: +1 if its mean rating is above the threshold, -1 below."""
  thumbs = [thumb(mean(own), threshold, neutral) for own in group.ratings]
  return [
    group.pick((k,), (sign,), Feedback.BINARY, f"{group.id}/{k + 1}")
    for k, sign in enumerate(thumbs)
    if sign
  ]


def to_texts(group: Group) -> list[Group]:
  """A row a text, to imitate, whatever its ratings."""
  return [
    group.pick((k,), (1.0,), Feedback.DEMONSTRATION, f"{group.id}/{k + 1}")
    for k in range(len(group.completions))
  ]


def as_kind(
  group: Group, kind: str, min_gap: float, threshold: float
) -> list[Group] | str:
  """The groups that a rated row becomes, or the reason of its drop.

  Args:
    group: a row with `ratings`, SCORE feedback.
    kind: one of KINDS, the words that choose the films' feedback too.
    min_gap: of `pairs` and `soft`, in rating points.
    threshold: of `binary`, a rating.
  """
  if kind == "lists":
    return [group] if len(group.completions) > 1 else "single"
  if kind == "texts":
    return to_texts(group)
  if kind == "binary":
    return to_binary(group, threshold) or "neutral"
  made = to_pairs(group, min_gap, kind == "soft")
  if len(made) > 1:  # one row's pairs are correlated
    made = [dataclasses.replace(g, cluster=g.cluster or group.id) for g in made]
  return made or "small_gap"


@dataclasses.dataclass(frozen=True)
class Agreement:
  """How far the raters of a data set agree; NaN where nothing can be said."""

  texts: int
  raters: tuple[int, int]  # fewest and most of a text
  pairs: int  # of texts of one prompt whose mean ratings differ
  pair_agreement: float
  min_gap: float
  wide_pairs: int  # those whose means differ by min_gap or more
  wide_agreement: float
  alpha: float

  def lines(self) -> list[str]:
    """In words."""
    low, high = self.raters
    return [
      f"{self.texts} rated texts, {low} to {high} ratings each",
      "rater pairs that agree with the order of the means:"
      f" {self.pair_agreement:.1%} (ties half; {self.pairs} pairs of texts)",
      f"  where the means are {self.min_gap:g} or more apart:"
      f" {self.wide_agreement:.1%} ({self.wide_pairs} pairs)",
      f"Krippendorff's alpha, interval: {self.alpha:.3f}"
      " (1 = perfect, 0 = chance)",
    ]


def agreement(
  prompts: Iterable[Sequence[Ratings]], min_gap: float = 1.0
) -> Agreement:
  """Agreement over the rated texts of every prompt.

  `pair_agreement`: of all pairs of texts of one prompt with unequal means, the
  mean share of rater pairs that put the one of the higher mean above.
  """
  texts, shares, gaps = [], [], []
  for own in prompts:
    texts += own
    means = np.array([mean(r) for r in own])
    gap = means[:, None] - means[None, :]
    shares.append(win_shares(own)[gap > 0])
    gaps.append(gap[gap > 0])
  every = np.concatenate(shares)
  wide = every[np.concatenate(gaps) >= min_gap]
  average = lambda found: float(found.mean()) if len(found) else math.nan
  sizes = [len(own) for own in texts]
  return Agreement(
    texts=len(texts),
    raters=(min(sizes), max(sizes)),
    pairs=len(every),
    pair_agreement=average(every),
    min_gap=min_gap,
    wide_pairs=len(wide),
    wide_agreement=average(wide),
    alpha=krippendorff_alpha(texts),
  )


def krippendorff_alpha(texts: Sequence[Ratings]) -> float:
  """1 - observed / expected squared difference of two ratings.

  Observed within texts, expected over all ratings; texts with one rating say
  nothing. NaN when all ratings are equal. Source: Krippendorff, Content
  Analysis, chapter on reliability (interval metric).
  """
  paired = [np.asarray(own, float) for own in texts if len(own) > 1]
  if not paired:
    return math.nan
  every = np.concatenate(paired)
  # The mean squared difference of two of n numbers is twice their variance
  # with n - 1.
  observed = sum(len(own) * own.var(ddof=1) for own in paired) / len(every)
  expected = every.var(ddof=1)
  return float(1 - observed / expected) if expected > 0 else math.nan
