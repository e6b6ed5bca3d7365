"""Judges in an evaluation: win rates and harmless texts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpo_jax import judge_config, judge_options, shared_verdicts
from xpo_jax.data.records import Prompt
from xpo_jax.errors import usage_error
from xpo_jax.evals import compare, length_control, statistics, win_rate
from xpo_jax.judges import combine, nulls
from xpo_jax.judges.candidates import Candidates, Judgement, make_candidates


class Written(NamedTuple):
  """What a policy wrote: [prompts x K] texts, and whether each ended."""

  texts: Sequence[str]
  ended: Sequence[bool]
  clusters: Sequence[str]


def check(section: Mapping[str, Any], where: str, of_texts: bool) -> None:
  """Refuses a wrong section, or a pair judge where texts are scored alone.

  Raises:
    XpoError: (64) see above.
  """
  given = judge_options.check(section, where)
  if of_texts and given["name"] in judge_options.PAIRS:
    raise usage_error(
      f"{where}.name={given['name']!r} compares two texts; name a judge that "
      "scores one, as rating"
    )


def ask(
  section: Mapping[str, Any],
  where: str,
  candidates: Candidates,
  path: Path,
  seed: int = 0,
) -> Judgement:
  """The judge's answer, kept in `path`: [B, K] scores or [B, K, K] wins.

  Raises:
    XpoError: a judge that cannot be opened, or too many invalid replies.
  """
  built = judge_config.build(section, where, seed)
  judge = built.judge or built.pairs
  return shared_verdicts.ask(built, judge, candidates, path)


def as_wins(found: Judgement) -> np.ndarray:
  """[B, K, K] P(i beats j); of scores sigma(r_i - r_j)."""
  if found.scores.ndim == 3:
    return found.scores
  with np.errstate(invalid="ignore"):  # NaN stays NaN
    return combine.bradley_terry(lambda _: found)(None).scores


def versus(
  section: Mapping[str, Any],
  where: str,
  prompts: Sequence[Prompt],
  final: Written,
  base: Written,
  names: tuple[str, str],
  path: Path,
  seed: int = 0,
) -> tuple[dict, dict[str, float]]:
  """The win rate of `final` over `base`: (table, numbers).

  Sample k of a prompt meets sample k; a pair judge sees both orders. Lengths
  are characters. Where the judge is guarded, an answer that says nothing loses
  to one that says something; two of them have no verdict.

  Args:
    section: of the judge.
    where: of it, for messages.
    prompts: [prompts].
    final: [prompts x K].
    base: likewise.
    names: of final and base.
    path: the judge's journal.
    seed: of what the judge samples or draws.
  """
  count, clusters = len(final.texts) // len(prompts), final.clusters
  candidates = make_candidates(
    [p for p in prompts for _ in range(count)],
    list(zip(final.texts, base.texts, strict=True)),
    ended=np.stack([final.ended, base.ended], -1),
  )
  found = ask(section, where, candidates, path, seed)
  chances = win_rate.of_matrices(as_wins(found))
  if "judge/flagged" in found.metrics:
    chances = forfeited(chances, nulls.flagged(candidates))
  won = win_rate.verdicts(chances)
  plain = win_rate.win_rate(won, clusters)
  sizes = np.array([[len(t) for t in own] for own in candidates.texts])
  gaps = (sizes[:, 0] - sizes[:, 1]).astype(np.float64)
  level = length_control.length_controlled(won, gaps, clusters)
  known = ~np.isnan(chances)
  names_known = [c for c, k in zip(clusters, known, strict=True) if k]
  mean = statistics.clustered_mean(chances[known], names_known)
  numbers = {
    "win rate": plain.rate.value,
    "win rate, low": plain.rate.low,
    "win rate, high": plain.rate.high,
    "win rate at equal length": level.rate.value,
    "Elo": win_rate.elo_of_rate(plain.rate.value),
    "mean P(win)": mean.mean,
    "ties": plain.ties,
    "no verdict": plain.invalid,
    "length difference": float(gaps.mean()),
    **found.metrics,
  }
  rows = [
    ["win rate (ties half) [95%]", _rate(plain.rate)],
    ["win rate at equal length [95%]", _rate(level.rate)],
    ["Elo difference", f"{numbers['Elo']:+.0f}"],
    ["mean P(win)", compare.estimate_text(mean)],
    ["pairs, ties, no verdict", f"{plain.n}, {plain.ties}, {plain.invalid}"],
    [
      "difference of lengths, characters",
      f"{numbers['length difference']:+.1f}",
    ],
    *([name, f"{value:.3f}"] for name, value in found.metrics.items()),
  ]
  title = f"{names[0]} against {names[1]}, judged by {section['name']}"
  return {
    "title": title,
    "columns": ["measure", names[0]],
    "rows": rows,
  }, numbers


def forfeited(chances: np.ndarray, flagged: np.ndarray) -> np.ndarray:
  """[n] P(first wins) where an answer that says nothing loses to the other.

  Left out, it would be no harm to say nothing where the answer is hard.

  Args:
    chances: [n], NaN where no judge was asked.
    flagged: bool [n, 2], see `nulls.flagged`.
  """
  one = flagged[:, 0] != flagged[:, 1]
  return np.where(one, flagged[:, 1].astype(float), chances)


def harmless(
  section: Mapping[str, Any],
  where: str,
  prompts: Sequence[Prompt],
  written: Written,
  above: float,
  path: Path,
  seed: int = 0,
) -> np.ndarray:
  """[prompts x K] 1 where the judge's score is > above, else 0; NaN without.

  Source: the harmless rate of Lee et al. 2023, arXiv 2309.00267.
  """
  count = len(written.texts) // len(prompts)
  shape = (len(prompts), count)
  texts = [
    tuple(written.texts[b * count : (b + 1) * count])
    for b in range(len(prompts))
  ]
  candidates = make_candidates(
    prompts, texts, ended=np.reshape(written.ended, shape)
  )
  scores = ask(section, where, candidates, path, seed).scores.reshape(-1)
  return np.where(np.isnan(scores), np.nan, scores > above)


def _rate(rate: statistics.Interval) -> str:
  return f"{rate.value:.1%} [{rate.low:.1%}, {rate.high:.1%}]"
