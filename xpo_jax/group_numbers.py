"""A scorer's numbers of any number of groups, in few shapes.

Shapes are rounded up, so that a run that judges every step compiles a few
programs and no more.
"""

from collections.abc import Sequence
import dataclasses

import jax
import numpy as np

from xpo_jax import parallel
from xpo_jax.data import packing
from xpo_jax.data.planning import Shape, group_lengths
from xpo_jax.data.records import TokenGroup
from xpo_jax.judges.candidates import Score
from xpo_jax.score_forward import Scorer
from xpo_jax.types import Feedback

ROWS = 16  # of one forward
ROW_LENGTH = 1024  # slots of a row, where a single completion fits into it
_LENGTH_STEP, _TARGET_STEP = 64, 16  # shapes are multiples of these


def scores_of(scorer: Scorer) -> Score:
  """The rewards [K] of every group, in rounded shapes."""

  def score_groups(groups: Sequence[TokenGroup]) -> list[np.ndarray]:
    out = [np.full(len(g.completions), np.nan) for g in groups]
    for n, first, piece, own in numbers(scorer, groups, "rewards"):
      size = len(piece.completions)
      out[n][first : first + size] = own[:size]
    return out

  return score_groups


def numbers(scorer: Scorer, groups: Sequence[TokenGroup], name: str):
  """Of what `score_forward.make_score` returns, the numbers called `name`.

  Groups of like lengths go together, the shortest first.

  Yields:
    (number of the group, its first completion here, the completions of one
    row as a group, their numbers [K] or [K, T]).
  """
  multiple = scorer.mesh.shape["data"] * scorer.mesh.shape["fsdp"]
  rows = ROWS + -ROWS % multiple
  pieces = [p for n, g in enumerate(groups) for p in _pieces(n, g)]
  pieces.sort(key=lambda piece: packing.group_cost(piece[2])[0])
  shape = _shape([piece for *_, piece in pieces], rows)
  for at in range(0, len(pieces), rows):
    part = pieces[at : at + rows]
    longest = packing.group_cost(part[-1][2])[0]
    own = dataclasses.replace(shape, row_length=_up(longest, _LENGTH_STEP))
    batch = packing.pack([p for *_, p in part], own, Feedback.SCORE)
    batch = jax.tree.map(lambda x: x[None], batch)
    with parallel.use(scorer.mesh):
      found = scorer.score_batch(
        scorer.params, scorer.frozen, parallel.put_batch(scorer.mesh, batch)
      )
    host = parallel.to_host(found[name])
    for piece, own in zip(part, host, strict=False):
      yield *piece, own


def _pieces(number: int, group: TokenGroup):
  """(number, first completion, group) of parts that fit a row, if one can."""
  first, used = 0, len(group.prompt)
  for k, own in enumerate(group.completions):
    if k > first and used + len(own) > ROW_LENGTH:
      yield number, first, _part(group, first, k)
      first, used = k, len(group.prompt)
    used += len(own)
  yield number, first, _part(group, first, len(group.completions))


def _part(group: TokenGroup, first: int, end: int) -> TokenGroup:
  cut = slice(first, end)
  return dataclasses.replace(
    group,
    completions=group.completions[cut],
    ended=group.ended[cut],
    feedback=group.feedback[cut],
  )


def _shape(pieces: Sequence[TokenGroup], rows: int) -> Shape | None:
  """One piece a row."""
  if not pieces:
    return None
  lengths = group_lengths(pieces)
  targets = lengths[:, 1:].sum(-1)
  return Shape(
    prompts=rows,
    completions=lengths.shape[1] - 1,
    tokens=_up(lengths[:, 1:].max(), _TARGET_STEP),
    rows=rows,
    row_length=_up((lengths[:, 0] + targets).max(), _LENGTH_STEP),
    targets=_up(targets.max(), _TARGET_STEP),
  )


def _up(n: int, step: int) -> int:
  return int(-(-n // step) * step)
