"""Judged completions to rows of training data: what a prompt keeps. Pure.

Letters: B prompts, K candidates, n accepted by rejection sampling.
"""

import collections
from typing import NamedTuple

import jax
import numpy as np

from xpo_jax.judges import combine
from xpo_jax.judges.candidates import Candidates
from xpo_jax.rollout import select
from xpo_jax.rollout.select import Selection
from xpo_jax.stages.rows import make_row


class Kind(NamedTuple):
  """What a selection needs and leaves."""

  layout: str  # of formats.COLUMNS
  judge: str  # "" | "scores" | "wins" (P of every pair)
  least: int  # different texts without which a prompt leaves nothing
  gold: bool = False  # takes the data's own best as one more candidate


KINDS = {
  "best_worst": Kind("pairs", "scores", 2),
  "rejection_first_round": Kind("pairs", "wins", 2),
  "rejection_tournament": Kind("pairs", "wins", 2),
  "tournament": Kind("pairs", "wins", 2),
  "large_margin": Kind("pairs", "scores", 2, gold=True),
  "best_of_n": Kind("demonstrations", "scores", 1),
  "keep_all": Kind("scores", "scores", 2, gold=True),
  "win_rates": Kind("win_rates", "wins", 2),
  "best_worst_wins": Kind("win_rates", "wins", 2),
  "soft_pairs": Kind("win_rates", "wins", 2),
  "self_samples": Kind("samples", "", 1),
}


class Judged(NamedTuple):
  """Candidates with what a judge said of them.

  A completion that says nothing is not present. With `gold`, the last candidate
  is the data's own.
  """

  candidates: Candidates
  numbers: np.ndarray  # int32 [B] of the prompts in the data
  scores: np.ndarray  # f64 [B, K]; NaN: none
  wins: np.ndarray | None = None  # f64 [B, K, K] P(i beats j)
  rejected: tuple[str | None, ...] = ()  # [B] the data's own worst
  gold: bool = False
  reasons: tuple[str, ...] = ()  # [B] why nothing is left; (): not known yet


class Selected(NamedTuple):
  """Rows of one layout, and why prompts left none."""

  rows: list[list[dict]]  # a list a prompt
  dropped: collections.Counter  # reason -> prompts
  gaps: np.ndarray  # f64, score of the better minus the worse, a pair


class Accepted(NamedTuple):
  """Rejection sampling's choice as candidates, and how it went, [B] each."""

  judged: Judged  # K = n, in the order of acceptance
  first_rate: np.ndarray  # share that the first pass would accept
  passes: np.ndarray


_reject = jax.jit(select.sample_rejection, static_argnames="count")


def distinct(judged: Judged) -> np.ndarray:
  """bool [B, K]: present, and the first of its text, blanks around it apart."""
  texts = [[t.strip() for t in own] for own in judged.candidates.texts]
  return select.first_occurrences(texts, judged.candidates.present)


def accept(
  name: str, judged: Judged, count: int, beta: float, seed: int, size: int = 512
) -> Accepted:
  """Statistical rejection sampling over the different texts with a score.

  Args:
    name: of the selection.
    judged: K >= count.
    count: n, fewer where a prompt has not as many.
    beta: temperature of the target pi exp(r / beta), >= 0.
    seed: the noise of a prompt depends on it and its number only.
    size: prompts at once.

  Source: Liu et al. 2023, arXiv 2309.06657, algorithm 1; methods.md 4.2.
  """
  key, parts = _keys(seed)[0], []
  valid = distinct(judged) & np.isfinite(judged.scores)
  for at in range(0, len(valid), size):
    cut = slice(at, at + size)
    found = _reject(
      key,
      np.asarray(judged.scores[cut], np.float32),
      valid[cut],
      count,
      beta,
      judged.numbers[cut],
    )
    parts.append(jax.tree.map(np.asarray, found))
  found = jax.tree.map(lambda *own: np.concatenate(own), *parts)
  take = lambda x: np.take_along_axis(x, found.index, axis=1)
  old = judged.candidates
  new = Candidates(
    prompts=old.prompts,
    texts=tuple(
      tuple(own[k] for k in index)
      for own, index in zip(old.texts, found.index, strict=True)
    ),
    present=found.kept,
    ended=take(old.ended),
  )
  scores = np.where(found.kept, take(judged.scores), np.nan)
  narrow = judged._replace(
    candidates=new, scores=scores, reasons=_reasons(name, judged, valid)
  )
  return Accepted(narrow, found.first_rate, found.passes)


def choose(
  name: str, judged: Judged, min_margin: float = 0.0, seed: int = 0
) -> Selected:
  """The rows of every prompt.

  best_worst: (argmax, argmin) of the scores; equal scores or texts drop.
  rejection_first_round, rejection_tournament: pairs among what `accept` left.
  tournament: a knockout over all candidates.
  large_margin: all pairs whose scores differ by `min_margin` or more, in which
    the data's own completion does not lose.
  best_of_n: the best one to imitate.
  keep_all: all completions with their scores.
  win_rates: all with the mean P of beating one of them, itself (1/2) included.
  best_worst_wins: the best and the worst by that rate, with both rates.
  soft_pairs: the first two with P and 1 - P.
  self_samples: all, against the data's own worst.

  Args:
    name: a key of KINDS.
    judged: has `wins` where the kind needs them.
    min_margin: of large_margin, > 0.
    seed: of who meets whom in the first round.

  Source: methods.md 2.3, 3.2, 4.1, 4.2, 6, 11.1, 12.2 and 12.3.
  """
  scores = judged.scores
  if name in ("win_rates", "best_worst_wins"):
    scores = combine.mean_wins(judged.wins)
  valid = _valid(name, judged, scores)
  index, kept = _groups(name, judged, scores, valid, min_margin, seed)
  reasons = judged.reasons or _reasons(name, judged, valid)
  rows, gaps, dropped = [], [], collections.Counter()
  for b, reason in enumerate(reasons):
    own = []
    for places, here in zip(index[b], kept[b], strict=True):
      if reason or not here.any():
        continue
      group = [int(k) for k in places[here]]
      row, values = _row(name, judged, scores, b, group)
      own.append(row)
      if KINDS[name].layout == "pairs" or name == "best_worst_wins":
        gaps.append(values[0] - values[1])
    if not own:
      dropped[reason or _NOTHING.get(name, "no_verdict")] += 1
    rows.append(own)
  return Selected(rows, dropped, np.array(gaps, float))


# Why a prompt whose texts differ and are judged leaves nothing.
_NOTHING = {
  "best_worst": "equal_scores",
  "best_worst_wins": "equal_scores",
  "large_margin": "small_margin",
}


def _valid(name: str, judged: Judged, scores: np.ndarray) -> np.ndarray:
  """bool [B, K]: present, and judged if the kind asks for it."""
  present = judged.candidates.present
  if KINDS[name].judge == "scores" or name in ("win_rates", "best_worst_wins"):
    return present & np.isfinite(scores)
  if name == "soft_pairs":
    first = np.arange(present.shape[1]) < 2
    return present & first & np.isfinite(judged.wins[:, :1, 1])
  return present


def _reasons(name: str, judged: Judged, valid: np.ndarray) -> tuple[str, ...]:
  """[B] why a prompt cannot leave anything, "" if it can."""
  least, own = KINDS[name].least, judged.candidates
  different = distinct(judged)
  present, unlike, usable = (
    x.sum(1) for x in (own.present, different, different & valid)
  )

  def reason(b: int) -> str:
    if name == "self_samples" and judged.rejected[b] is None:
      return "no_rejected"
    if present[b] < least:
      return "empty_texts"
    if unlike[b] < least:
      return "equal_texts"
    if usable[b] < least:
      return "no_score"
    if name == "self_samples":
      texts = {own.texts[b][k].strip() for k in np.flatnonzero(valid[b])}
      return "equal_texts" if texts == {judged.rejected[b].strip()} else ""
    return ""

  return tuple(map(reason, range(len(valid))))


def _groups(
  name: str,
  judged: Judged,
  scores: np.ndarray,
  valid: np.ndarray,
  min_margin: float,
  seed: int,
) -> Selection:
  """Places [B, G, J] as numpy; the better one first in a pair."""
  first = valid & distinct(judged)
  if name == "tournament" or name.startswith("rejection"):
    first &= _has_game(judged.wins)
  if name in ("best_worst", "best_worst_wins"):
    found = select.best_worst(scores, first)
  elif name == "best_of_n":
    found = select.best_of_n(scores, first)
  elif name == "large_margin":
    found = _wide_pairs(scores, first, min_margin, judged.gold)
  elif name == "rejection_first_round":
    noise = _uniforms(seed, judged.numbers, valid.shape[1])
    found = select.first_round(_all(first), judged.wins, noise)
  elif name in ("rejection_tournament", "tournament"):
    found, _, _ = select.tournament(_all(first), judged.wins)
  else:
    found = _all(valid)
  return Selection(np.asarray(found.index), np.asarray(found.kept))


def _has_game(wins: np.ndarray) -> np.ndarray:
  """bool [B, K]: some P is known; others would go on past an opponent."""
  others = ~np.eye(wins.shape[1], dtype=bool)
  return (np.isfinite(wins) & others).any(-1)


def _all(valid: np.ndarray) -> Selection:
  """One group of all that are valid, in order."""
  return select.keep_all(np.zeros(valid.shape, np.float32), valid)


def _wide_pairs(scores, valid, min_margin: float, gold: bool) -> Selection:
  """All (better, worse) with a gap of at least `min_margin`, in order."""
  count = scores.shape[1]
  with np.errstate(invalid="ignore"):
    wide = scores[:, :, None] - scores[:, None, :] >= min_margin
  wide &= valid[:, :, None] & valid[:, None, :]
  if gold:
    wide[:, :, -1] = False
  places = np.indices((count, count)).reshape(2, -1).T
  shape = (len(scores), len(places), 2)
  kept = np.broadcast_to(wide.reshape(len(scores), -1, 1), shape)
  return Selection(np.broadcast_to(places, shape), kept)


def _row(
  name: str, judged: Judged, scores, b: int, group: list[int]
) -> tuple[dict, list[float]]:
  """The row of a group of completions, and their numbers."""
  texts = [judged.candidates.texts[b][k] for k in group]
  values = [float(scores[b, k]) for k in group]
  if name == "soft_pairs":
    values = [float(judged.wins[b, 0, 1]), float(judged.wins[b, 1, 0])]
  rejected = judged.rejected[b] if judged.rejected else None
  prompt, layout = judged.candidates.prompts[b], KINDS[name].layout
  ended = [bool(judged.candidates.ended[b, k]) for k in group]
  if layout == "samples":
    ended.append(True)  # a text of the data
  return make_row(layout, prompt, texts, values, rejected, ended), values


def _keys(seed: int) -> jax.Array:
  """Of the rejection sampling and of the first round."""
  return jax.random.split(jax.random.key(seed), 2)


def _uniforms(seed: int, numbers: np.ndarray, count: int) -> jax.Array:
  """[B, count]; a prompt's depend on the seed and its number only."""
  key = _keys(seed)[1]
  draw = lambda n: jax.random.uniform(jax.random.fold_in(key, n), (count,))
  return jax.vmap(draw)(numbers)
