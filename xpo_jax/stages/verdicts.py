"""Samples before a judge: what it is asked, and what it says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xpo_jax import judge_config, shared_verdicts
from xpo_jax.data import cells
from xpo_jax.judges import combine
from xpo_jax.judges.candidates import Candidates
from xpo_jax.stages import outcome, selection
from xpo_jax.stages.drawing import Asked
from xpo_jax.stages.selection import KINDS, Judged

FILES = ("verdicts.part.jsonl", "games.part.jsonl")


def candidates(
  settings, asked: Sequence[Asked], drawn: Sequence[dict]
) -> Judged:
  """Samples as candidates, without a word of a judge yet.

  Texts that say nothing are not present, and no judge is asked about them.
  """
  gold = [(a.best,) if settings.gold else () for a in asked]
  pairs = list(zip(drawn, gold, strict=True))
  texts = [(*d["texts"], *own) for d, own in pairs]
  ended = [(*d["ended"], *(True,) * len(own)) for d, own in pairs]
  said = lambda text: text is not None and not cells.says_nothing(text)
  made = Candidates(
    prompts=tuple(a.prompt for a in asked),
    texts=tuple(tuple(t or "" for t in own) for own in texts),
    present=np.array([list(map(said, own)) for own in texts], bool),
    ended=np.array(ended, bool),
  )
  return Judged(
    candidates=made,
    numbers=np.array([a.number for a in asked], np.int32),
    scores=np.full(made.shape, np.nan),
    rejected=tuple(a.worst for a in asked),
    gold=settings.gold,
  )


def judge(
  settings, judged: Judged, folder: Path, where: str
) -> tuple[Judged, Judged, dict[str, Any]]:
  """(all with their scores, those that are selected from, numbers).

  A pair judge's scores are mean win rates; in rejection sampling they are the
  logit of beating the first sample that says something, so that only the
  accepted ones meet.
  """
  kind, name = KINDS[settings.select], settings.select
  if not kind.judge:
    return judged, judged, {}
  built = judge_config.build(settings.judge, f"{where}.judge", settings.seed)
  reject, penalty = name.startswith("rejection"), settings.length_penalty
  first = built.judge or built.pairs
  if reject and built.pairs:
    first = combine.reward_from_pairs(built.pairs)
  found = shared_verdicts.ask(
    built, first, judged.candidates, folder / FILES[0]
  )
  judged = games = _scored(judged, found.scores, penalty)
  replies, numbers = [found], {}
  if reject:
    accepted = selection.accept(
      name, judged, settings.accept, settings.select_beta, settings.seed
    )
    games = accepted.judged
    numbers["acceptance"] = float(np.mean(accepted.first_rate))
    numbers["passes"] = float(np.mean(accepted.passes))
    if built.pairs:
      # No answer that says nothing was accepted: the metrics are of the first.
      later = shared_verdicts.ask(
        built._replace(guard=False),
        built.pairs,
        games.candidates,
        folder / FILES[1],
      )
      wins = penalised(later.scores, games.candidates, penalty)
      games, replies = games._replace(wins=wins), [found, later]
  if kind.judge == "wins" and games.wins is None:
    games = games._replace(wins=_bradley_terry(games.scores))
  return judged, games, numbers | outcome.replies(built.name, replies)


def _scored(judged: Judged, scores: np.ndarray, penalty: float) -> Judged:
  """With scores [B, K], and with wins where a pair judge gave these."""
  own, wins = judged.candidates, None
  if scores.ndim == 3:
    wins = penalised(scores, own, penalty)
    scores = combine.mean_wins(wins)
  elif penalty:
    scores = scores - penalty * characters(own)
  scores = np.where(own.present, scores, np.nan)
  return judged._replace(scores=scores, wins=wins)


def characters(own: Candidates) -> np.ndarray:
  """int [B, K] lengths of the texts."""
  return np.array([[len(t) for t in texts] for texts in own.texts])


def penalised(wins: np.ndarray, own: Candidates, penalty: float) -> np.ndarray:
  """sigma(logit P(i beats j) - penalty (|y_i| - |y_j|)), [B, K, K].

  The same as a penalty on scores whose difference is the logit.
  """
  if not penalty:
    return wins
  sizes = characters(own)
  longer = penalty * (sizes[:, :, None] - sizes[:, None, :])
  with np.errstate(divide="ignore"):
    logit = np.log(wins) - np.log1p(-wins)
  return _sigmoid(logit - longer)


def _bradley_terry(scores: np.ndarray) -> np.ndarray:
  """P(i beats j) = sigma(r_i - r_j)."""
  return _sigmoid(scores[:, :, None] - scores[:, None, :])


def _sigmoid(x: np.ndarray) -> np.ndarray:
  with np.errstate(invalid="ignore"):  # NaN: there is no P
    return np.exp(-np.logaddexp(0.0, -x))
