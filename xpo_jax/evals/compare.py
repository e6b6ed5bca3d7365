"""Two sets of texts for the same prompts, measured alike and compared.

Measures of single texts get a standard error clustered by prompt cluster and a
paired bootstrap interval; measures of a whole corpus (distinct-2, identical)
get none. A scorer's NaN marks a text as unscorable: left out, and counted.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
import dataclasses
import math

import numpy as np

from xpo_jax.evals import text
from xpo_jax.evals.statistics import (
  Estimate,
  Interval,
  clustered_mean,
  paired_bootstrap,
  wilson,
)

Scorer = Callable[[list[str]], np.ndarray]  # texts -> [texts], NaN allowed

TEXT_MEASURES: Mapping[str, Scorer] = {
  "words": text.length,
  "repetition": text.repetition,
}
CORPUS_MEASURES: Mapping[str, Callable[[list[str]], float]] = {
  "distinct-2": lambda texts: text.distinct_n(texts, 2),
  "identical": text.identical_share,
}
NO_INTERVAL = Interval(math.nan, math.nan, math.nan)


@dataclasses.dataclass(frozen=True)
class Measured:
  """All numbers of one set of texts; scoring is the costly part, done once."""

  per_text: dict[str, np.ndarray]  # name -> [texts]
  corpus: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Comparison:
  """One measure before and after; differences are new - base.

  `higher` is the share of pairs where new > base (ties 1/2) with its Wilson
  interval, NaN for a corpus measure: the win rate, if more is better.
  `unscorable` counts the pairs left out.
  """

  measure: str
  base: Estimate
  new: Estimate
  difference: Interval
  higher: Interval
  unscorable: int = 0


def measure(texts: list[str], scorers: Mapping[str, Scorer]) -> Measured:
  """Applies the scorers, then TEXT_MEASURES and CORPUS_MEASURES.

  Raises:
    ValueError: a scorer's answer has the wrong shape.
  """
  texts = list(texts)
  per_text = {}
  for name, scorer in (dict(scorers) | TEXT_MEASURES).items():
    scores = np.asarray(scorer(texts), np.float64)
    if scores.shape != (len(texts),):
      raise ValueError(f"{name}: {scores.shape} scores for {len(texts)} texts")
    per_text[name] = scores
  corpus = {name: f(texts) for name, f in CORPUS_MEASURES.items()}
  return Measured(per_text, corpus)


def estimates(
  measured: Measured, clusters: Sequence[Hashable]
) -> dict[str, Estimate]:
  """{measure: Estimate}; `n` is the number of texts that could be scored."""
  found = {}
  for name, scores in measured.per_text.items():
    keep = ~np.isnan(scores)
    found[name] = clustered_mean(scores[keep], _pick(clusters, keep))
  n = len(clusters)
  for name, value in measured.corpus.items():
    found[name] = Estimate(value, math.nan, n, 0)
  return found


def differences(
  base: Measured,
  new: Measured,
  clusters: Sequence[Hashable],
  samples: int = 10_000,
  seed: int = 0,
) -> list[Comparison]:
  """One Comparison a measure, over pairs that both sides could score."""
  rows = []
  for name, before in base.per_text.items():
    after = new.per_text[name]
    keep = ~(np.isnan(before) | np.isnan(after))
    kept = _pick(clusters, keep)
    before, after = before[keep], after[keep]
    won = np.sum(after > before) + 0.5 * np.sum(after == before)
    row = Comparison(
      name,
      clustered_mean(before, kept),
      clustered_mean(after, kept),
      paired_bootstrap(before, after, kept, samples, seed),
      wilson(float(won), len(kept)),
      int(np.sum(~keep)),
    )
    rows.append(row)
  n = len(clusters)
  for name, before in base.corpus.items():
    after = new.corpus[name]
    row = Comparison(
      name,
      Estimate(before, math.nan, n, 0),
      Estimate(after, math.nan, n, 0),
      Interval(after - before, math.nan, math.nan),
      NO_INTERVAL,
    )
    rows.append(row)
  return rows


def summarise(
  texts: list[str],
  clusters: Sequence[Hashable],
  scorers: Mapping[str, Scorer],
) -> dict[str, Estimate]:
  """`measure`, then `estimates`."""
  return estimates(measure(texts, scorers), clusters)


def compare(
  base_texts: list[str],
  new_texts: list[str],
  clusters: Sequence[Hashable],
  scorers: Mapping[str, Scorer],
  seed: int = 0,
) -> list[Comparison]:
  """`measure` on both sides, then `differences`.

  Args:
    base_texts: [n]; base_texts[i] and new_texts[i] answer the same prompt.
    new_texts: [n].
    clusters: [n].
    scorers: measure name -> scorer.
    seed: of the bootstrap.
  """
  base, new = measure(base_texts, scorers), measure(new_texts, scorers)
  return differences(base, new, clusters, seed=seed)


def final_table(
  title: str,
  summaries: Mapping[str, Mapping[str, Estimate]],
  rows: Sequence[Comparison],
  change: str,
) -> dict:
  """The table of a run, for `progress.print_table` and the report.

  Args:
    title: its heading.
    summaries: stage name -> estimates, in the order of the columns.
    rows: comparisons of two of these stages, one table row each.
    change: heading of the difference, e.g. "DPO - SFT".

  Returns:
    {"title", "columns", "rows"}, all cells strings; append rows as you like.
  """
  columns = ["measure", *summaries, f"{change} [95%]", "higher"]
  cells = [
    [
      row.measure,
      *(estimate_text(stage[row.measure]) for stage in summaries.values()),
      interval_text(row.difference),
      "" if math.isnan(row.higher.value) else f"{row.higher.value:.0%}",
    ]
    for row in rows
  ]
  return {"title": title, "columns": columns, "rows": cells}


def estimate_text(estimate: Estimate) -> str:
  """ "0.571 ± 0.032"; without a standard error only the mean."""
  if math.isnan(estimate.mean):
    return "–"
  shown = _number(estimate.mean)
  return shown if math.isnan(estimate.se) else f"{shown} ± {estimate.se:.3f}"


def interval_text(interval: Interval) -> str:
  """ "+0.400 [+0.310, +0.490]"; without an interval only the value."""
  if math.isnan(interval.value):
    return "–"
  shown = _number(interval.value, "+")
  if math.isnan(interval.low):
    return shown
  low, high = _number(interval.low, "+"), _number(interval.high, "+")
  return f"{shown} [{low}, {high}]"


def _number(value: float, sign: str = "") -> str:
  return f"{value:{sign}.3f}" if abs(value) < 10 else f"{value:{sign}.1f}"


def _pick(clusters: Sequence[Hashable], keep: np.ndarray) -> list[Hashable]:
  if len(clusters) != len(keep):
    raise ValueError(f"{len(keep)} texts for {len(clusters)} clusters")
  return [name for name, kept in zip(clusters, keep) if kept]
