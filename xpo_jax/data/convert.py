"""Pure conversions between kinds of feedback."""

from collections.abc import Callable, Iterable
import dataclasses

import numpy as np

from xpo_jax.data import comparison
from xpo_jax.data.records import Group
from xpo_jax.errors import data_error, usage_error
from xpo_jax.types import Feedback

PAIRED = frozenset({Feedback.ORDER, Feedback.PROBABILITY, Feedback.MARGIN})


def to_demonstrations(groups: Iterable[Group]) -> list[Group]:
  """The best completion of each group as a text to imitate.

  Pairs give their likelier winner (index 0 on a tie), scored lists the first
  of the highest score, binary rows their completion if it is desirable.
  """
  kept = []
  for g in groups:
    best = int(np.argmax(g.feedback))
    if g.kind is not Feedback.BINARY or g.feedback[best] > 0:
      kept.append(_only(g, best, Feedback.DEMONSTRATION, 1.0))
  return kept


def to_binary(groups: Iterable[Group]) -> list[Group]:
  """Two rows a pair: the winner +1, the loser -1 (a 50:50 pair gives none)."""
  rows = []
  for g in groups:
    first, second = g.feedback
    if first == second and g.kind is Feedback.PROBABILITY:
      continue
    sign = 1.0 if first >= second else -1.0
    rows.append(_only(g, 0, Feedback.BINARY, sign))
    rows.append(_only(g, 1, Feedback.BINARY, -sign))
  return rows


def to_order(groups: Iterable[Group]) -> list[Group]:
  """Pairs with a probability or a margin as chosen (index 0) and rejected."""
  pairs = []
  for g in groups:
    first, second = g.feedback
    if first == second and g.kind is Feedback.PROBABILITY:
      continue
    best = 0 if first >= second else 1
    pairs.append(g.pick((best, 1 - best), (1.0, 0.0), Feedback.ORDER, g.id))
  return pairs


def lists_to_pairs(
  groups: Iterable[Group], min_gap: float | None = None
) -> list[Group]:
  """Chosen and rejected out of scored lists.

  Args:
    groups: SCORE feedback, K >= 2.
    min_gap: None takes the best and the worst of a list (the first of equals;
      a list of all-equal scores gives nothing). A number takes every pair
      whose scores differ by at least that much (> 0).
  """
  if min_gap is not None and min_gap <= 0:
    raise usage_error(f"min_gap={min_gap}: want a number > 0")
  pairs = []
  for g in groups:
    scores = np.asarray(g.feedback)
    if min_gap is None:
      best, worst = int(scores.argmax()), int(scores.argmin())
      if scores[best] > scores[worst]:
        pairs.append(g.pick((best, worst), (1.0, 0.0), Feedback.ORDER, g.id))
      continue
    for i, j in np.argwhere(scores[:, None] - scores[None, :] >= min_gap):
      name = f"{g.id}/{i + 1}>{j + 1}"
      pairs.append(g.pick((i, j), (1.0, 0.0), Feedback.ORDER, name))
  return pairs


def order_to_scores(groups: Iterable[Group]) -> list[Group]:
  """Pairs as scored lists of two: 1 and 0, p and 1 - p, or margin and 0."""
  return [dataclasses.replace(g, kind=Feedback.SCORE) for g in groups]


def to_outcomes(groups: Iterable[Group]) -> list[Group]:
  """Solutions without the labels of their steps; unknown outcomes go."""
  return [
    dataclasses.replace(g, steps=())
    for g in groups
    if not g.steps or g.feedback[0]
  ]


def add_mismatched_partner(groups: list[Group], seed: int) -> list[Group]:
  """K = 1 to K = 2: index 1 is another prompt's completion, feedback 0.

  The partners are a permutation of the completions, fixed by `seed`, under
  which no prompt gets a completion that was written for it.

  Raises:
    XpoError: (64) some group has K != 1, or one prompt has more than half of
      all rows, so that no such permutation exists.
  """
  wrong = next((g for g in groups if len(g.completions) != 1), None)
  if wrong:
    raise usage_error(
      f"{wrong.id}: K = {len(wrong.completions)}; a mismatched completion is"
      " added to K = 1 only"
    )
  by_prompt: dict[object, list[int]] = {}
  for i in np.random.default_rng(seed).permutation(len(groups)):
    by_prompt.setdefault(groups[i].prompt, []).append(int(i))
  largest = max(map(len, by_prompt.values()), default=0)
  if 2 * largest > len(groups) or not groups:
    raise usage_error(
      f"mismatched completions: one prompt has {largest} of {len(groups)}"
      " rows, the others are too few to lend theirs; add other prompts"
    )
  # With the rows of a prompt side by side, a turn by the size of the largest
  # prompt leaves none with its own, since no prompt has more than half.
  ring = [i for rows in by_prompt.values() for i in rows]
  lent = dict(zip(ring, np.roll(ring, -largest).tolist(), strict=True))
  return [_mismatched(g, groups[lent[i]]) for i, g in enumerate(groups)]


def _mismatched(group: Group, partner: Group) -> Group:
  ended = (group.ended or (True,)) + (partner.ended or (True,))
  return dataclasses.replace(
    group,
    completions=(group.completions[0], partner.completions[0]),
    feedback=(group.feedback[0], 0.0),
    ratings=(),
    ended=() if all(ended) else ended,
  )


_ROUTES: dict[tuple[Feedback, Feedback], Callable] = {
  (Feedback.SCORE, Feedback.ORDER): lists_to_pairs,
  (Feedback.SCORE, Feedback.BINARY): lambda g: to_binary(lists_to_pairs(g)),
  (Feedback.BINARY, Feedback.DEMONSTRATION): to_demonstrations,
  (Feedback.SCORE, Feedback.DEMONSTRATION): to_demonstrations,
  (Feedback.SCORE, Feedback.SCORE): list,
}
for _kind in PAIRED:
  _ROUTES[_kind, Feedback.BINARY] = to_binary
  _ROUTES[_kind, Feedback.DEMONSTRATION] = to_demonstrations
  _ROUTES[_kind, Feedback.SCORE] = order_to_scores
  if _kind is not Feedback.ORDER:
    _ROUTES[_kind, Feedback.ORDER] = to_order
# What is tried first when a method accepts several kinds: most kept first.
_PREFERENCE = (
  Feedback.SCORE,
  Feedback.ORDER,
  Feedback.BINARY,
  Feedback.DEMONSTRATION,
)


def convert(
  groups: list[Group],
  accepted: frozenset[Feedback],
  k_range: tuple[int, int | None],
  needs: frozenset[str] = frozenset(),
  seed: int = 0,
) -> list[Group]:
  """Groups in a kind and a K that the method takes.

  Args:
    groups: all of one kind.
    accepted: `Method.feedback`.
    k_range: `Method.completions`, inclusive; None = any.
    needs: `Method.needs`. Three of them speak of the data: token_feedback
      (labels of steps), mismatched_completion (another prompt's completion at
      index 1) and comparison (the pair shown in the prompt, the answers as
      completions).
    seed: of the partners, and of the order in comparisons.

  Raises:
    XpoError: (64) no conversion leads there, or none of the rows survives it.
  """
  if not groups:
    return []
  if "token_feedback" not in needs:
    groups = to_outcomes(groups)
  elif not all(g.steps for g in groups):
    raise usage_error(
      "the method learns from labels of steps, the data have none; give rows"
      " prompt, completions (the steps), labels (one a step)"
    )
  if "mismatched_completion" in needs:
    k_range = (1, 1)
  rows = _route(groups, accepted, k_range)
  if "mismatched_completion" in needs:
    return add_mismatched_partner(rows, seed)
  if "comparison" in needs:
    return comparison.to_comparisons(rows, seed)
  return rows


def _route(groups, accepted, k_range) -> list[Group]:
  """The first conversion that leads to an accepted kind and K."""
  low, high = k_range
  if not groups:
    raise data_error("no row's outcome is known; label every step")
  kind, sizes = groups[0].kind, {len(g.completions) for g in groups}

  def fits(rows: list[Group]) -> bool:
    return all(
      low <= len(g.completions) and (high is None or len(g.completions) <= high)
      for g in rows
    )

  # Self samples with a rejected text are for methods on lists of any size.
  samples = kind is Feedback.BINARY and max(sizes) > 1
  routes = () if samples else _PREFERENCE
  start, source = kind, groups
  if kind is Feedback.PROBABILITY and max(sizes) > 2:
    start, source = Feedback.SCORE, order_to_scores(groups)  # no pairs
  candidates = [lambda _: groups] if kind in accepted else []
  if samples and high is not None:
    candidates = []
  candidates += [
    _ROUTES[start, target]
    for target in routes
    if target in accepted and (start, target) in _ROUTES
  ]
  for candidate in candidates:
    rows = candidate(source)
    if rows and fits(rows):
      return rows
  want = ", ".join(sorted(k.name for k in accepted))
  found = _span(min(sizes), max(sizes))
  raise usage_error(
    f"the data carries {kind.name} feedback with K = {found},"
    f" the method takes {want} with K = {_span(low, high)};"
    " choose other data or another method"
  )


def _span(low: int, high: int | None) -> str:
  return f"{low}" if low == high else f"{low} to {high or 'any'}"


def _only(g: Group, k: int, kind: Feedback, value: float) -> Group:
  name = f"{g.id}/{k + 1}" if len(g.completions) > 1 else g.id
  return g.pick((k,), (value,), kind, name)
