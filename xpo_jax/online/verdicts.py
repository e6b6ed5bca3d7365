"""What the judge says of a rollout's samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xpo_jax import judge_config, shared_verdicts
from xpo_jax.data.records import Prompt
from xpo_jax.judges.candidates import Candidates, Judgement
from xpo_jax.judges.tally import Tally
from xpo_jax.online.draw import Drawn


class Verdict(NamedTuple):
  """Scores [B, K], NaN where the judge had none, and the texts judged."""

  scores: np.ndarray
  texts: list[list[str]]
  metrics: dict[str, float]
  tally: Tally
  relative: bool = False  # to each other: a prompt's mean says nothing


def texts_of(
  drawn: Drawn, prompts: Sequence[Prompt], tokenizer, template: str
) -> list[list[str]]:
  """Completions as a judge reads them: without their end."""
  out = []
  for b, prompt in enumerate(prompts):
    own = []
    for k in range(drawn.mask.shape[1]):
      ids = drawn.ids(b, k)
      text = tokenizer.decode(ids[:-1] if drawn.ended[b, k] else ids)
      # The plain template begins an assistant's turn with a space.
      turn = template == "plain" and not isinstance(prompt, str)
      own.append(text.removeprefix(" ") if turn else text)
    out.append(own)
  return out


def score(
  built: judge_config.Built | None,
  prompts: Sequence[Prompt],
  texts: list[list[str]],
  ended: np.ndarray,
  tally: Tally,
  path: Path | None = None,
) -> Verdict:
  """A score of every completion.

  Args:
    built: the judge; a pair judge gives win rates among the K; None gives 0.
    prompts: [B].
    texts: [B][K].
    ended: bool [B, K].
    tally: of the run's earlier replies.
    path: journal of the answers; None: nothing is kept.

  Raises:
    XpoError: too many invalid replies (70), or what the judge itself raises.
  """
  if built is None:
    return Verdict(np.zeros(ended.shape), texts, {}, tally)
  judge = judge_config.scores(built)
  candidates = _candidates(prompts, texts, ended)
  found, tally = _judged(built, judge, candidates, tally, path)
  relative = built.judge is None
  metrics = _metrics(found, found.scores)
  if relative:  # 1/2, whatever the policy says
    metrics.pop("rewards/judge", None)
  return Verdict(found.scores, texts, metrics, tally, relative)


def against(
  built: judge_config.Built,
  prompts: Sequence[Prompt],
  texts: list[list[str]],
  others: list[list[str]],
  ended: np.ndarray,
  others_ended: np.ndarray,
  tally: Tally,
  path: Path | None = None,
) -> Verdict:
  """P(a sample beats the opponent's k-th sample) of every completion."""
  count, size = ended.shape
  pairs = [
    [texts[b][k], others[b][k]] for b in range(count) for k in range(size)
  ]
  candidates = _candidates(
    [p for p in prompts for _ in range(size)],
    pairs,
    np.stack([ended.reshape(-1), others_ended.reshape(-1)], axis=1),
  )
  wins = judge_config.wins(built)
  found, tally = _judged(built, wins, candidates, tally, path)
  scores = found.scores[:, 0, 1].reshape(count, size)
  return Verdict(scores, texts, _metrics(found, scores), tally)


def _candidates(prompts, texts, ended) -> Candidates:
  return Candidates(
    tuple(prompts),
    tuple(map(tuple, texts)),
    np.ones(ended.shape, bool),
    np.asarray(ended, bool),
  )


def _judged(built, judge, candidates, tally, path):
  judge = shared_verdicts.kept(built, judge, path)
  return judge_config.judged(built, judge, candidates, tally)


def _metrics(found: Judgement, scores: np.ndarray) -> dict[str, float]:
  valid = scores[np.isfinite(scores)]
  if not valid.size:
    return dict(found.metrics)
  own = {"rewards/judge": valid.mean(), "rewards/judge_std": valid.std()}
  return {k: float(v) for k, v in {**found.metrics, **own}.items()}
