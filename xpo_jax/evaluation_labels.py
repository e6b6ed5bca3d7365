"""Reward models and judges against what people said of the same texts."""

from collections.abc import Mapping, Sequence
import itertools

import numpy as np

from xpo_jax import group_numbers, judging, label_journal, policy_samples
from xpo_jax.data import films, load, templates
from xpo_jax.data.records import Group
from xpo_jax.errors import data_error
from xpo_jax.evals import agreement, calibration, compare, statistics
from xpo_jax.evaluation_judging import as_wins
from xpo_jax.implicit import HeadReward
from xpo_jax.judges import combine, pointwise
from xpo_jax.judges.candidates import (
  Candidates,
  Judge,
  Judgement,
  make_candidates,
)
from xpo_jax.pretrained import Pretrained
from xpo_jax.types import Feedback


def read(source: str) -> list[Group]:
  """Rows whose completions people ranked.

  Args:
    source: files of pairs or lists, or films: the held-out pairs.

  Raises:
    XpoError: (65) bad data, or no row in which one completion is preferred.
  """
  if source == "films":
    return films.load_films("validation")[0]
  groups, _ = load.load_groups(source)
  ranked = groups[0].kind not in (Feedback.DEMONSTRATION, Feedback.BINARY)
  if not ranked or not any(len(set(g.feedback)) > 1 for g in groups):
    raise data_error(
      f"{source}: no row says which of two completions people prefer; give "
      "pairs, or lists with scores"
    )
  return groups


def candidates_of(groups: Sequence[Group]) -> Candidates:
  """Completions of rows, shorter lists filled up with absent ones."""
  most = max(len(g.completions) for g in groups)
  fill = lambda own, empty: (*own, *[empty] * (most - len(own)))
  present = [fill([True] * len(g.completions), False) for g in groups]
  return make_candidates(
    [g.prompt for g in groups],
    [fill(g.completions, "") for g in groups],
    present=np.array(present, bool),
  )


def reward_judge(model: Pretrained, template: str) -> Judge:
  """A reward model's head as a judge of texts."""
  score = group_numbers.scores_of(
    judging.make_scorer(model, "rm_bt", HeadReward("last"))
  )
  name = policy_samples.template_name(model, template)
  made = templates.make_template(model.tokenizer, name)
  return pointwise.make_judge(score, made, model.model.config.max_length)


def margins(
  groups: Sequence[Group], scores: np.ndarray
) -> tuple[np.ndarray, list[str]]:
  """r_w - r_l of every pair that people rank, and its cluster.

  Args:
    groups: rows.
    scores: [rows, K], NaN where there is none: the pair is left out.
  """
  found, clusters = [], []
  for g, own in zip(groups, scores, strict=True):
    for i, j in itertools.combinations(range(len(g.completions)), 2):
      if g.feedback[i] != g.feedback[j]:
        sign = 1 if g.feedback[i] > g.feedback[j] else -1
        found.append(sign * (own[i] - own[j]))
        clusters.append(g.cluster or g.id)
  margin = np.array(found, np.float64)
  known = np.isfinite(margin)
  return margin[known], [c for c, k in zip(clusters, known) if k]


def reward_table(
  groups: Sequence[Group], judges: Mapping[str, Judge]
) -> tuple[dict, dict[str, dict[str, float]]]:
  """Accuracy and calibration of reward models: (table, numbers).

  Args:
    groups: rows that people ranked.
    judges: name -> a reward model as a judge.
  """
  shown, numbers = {}, {}
  for name, judge in judges.items():
    gaps, clusters = margins(groups, judge(candidates_of(groups)).scores)
    right = statistics.accuracy(gaps, clusters)
    found = {
      "accuracy": right.mean,
      "calibration error": calibration.expected_error(gaps),
      "Brier score": calibration.brier(gaps),
    }
    numbers[name] = found
    shown[name] = {
      "accuracy": compare.estimate_text(right),
      "calibration error": f"{found['calibration error']:.3f}",
      "Brier score (a coin: 0.25)": f"{found['Brier score']:.3f}",
    } | {
      f"right where it says {b.low:.0%} .. {b.high:.0%}": _share(b)
      for b in calibration.bins(gaps)
    }
  rows = [
    [m, *(s[m] for s in shown.values())] for m in next(iter(shown.values()))
  ]
  title = f"Reward models on {len(groups)} rows that people ranked"
  return {"title": title, "columns": ["measure", *shown], "rows": rows}, numbers


def agreement_table(
  groups: Sequence[Group], found: Judgement, name: str
) -> tuple[dict, dict[str, float]]:
  """How far a judge agrees with people: (table, numbers).

  Args:
    groups: rows that people ranked.
    found: the judge's answer on `candidates_of(groups)`.
    name: of the judge.
  """
  wins = as_wins(found)
  own = found.scores if found.scores.ndim == 2 else combine.mean_wins(wins)
  lists = agreement.of_lists(
    [s[: len(g.completions)] for g, s in zip(groups, own, strict=True)],
    [g.feedback for g in groups],
  )
  chances, labels, clusters = [], [], []
  for g, p in zip(groups, wins, strict=True):
    for i, j in itertools.combinations(range(len(g.completions)), 2):
      if g.feedback[i] != g.feedback[j]:
        chances.append(p[i, j])
        labels.append(float(g.feedback[i] > g.feedback[j]))
        clusters.append(g.cluster or g.id)
  right = agreement.labeler_alignment(chances, labels)
  known = ~np.isnan(right)
  names = [c for c, k in zip(clusters, known, strict=True) if k]
  share = statistics.clustered_mean(right[known], names)
  # Both ways round: that people's choice is listed first says nothing.
  said = [
    (_word(one), _word(other))
    for p, t, k in zip(chances, labels, known, strict=True)
    for one, other in ((p, t), (1 - p, 1 - t))
    if k
  ]
  kappa = label_journal.kappa(said) if said else None
  numbers = {
    "agreement": share.mean,
    "kappa": np.nan if kappa is None else kappa,
    "exact ranking": lists.exact,
    "Spearman": lists.spearman,
    "Kendall tau-b": lists.kendall,
    "no verdict": int(np.sum(~known)),
    **found.metrics,
  }
  if name == "additive":
    numbers["5-best"] = lists.five_best
  rows = [["agreement (ties half)", compare.estimate_text(share)]]
  rows += [
    [key, _cell(value)] for key, value in numbers.items() if key != "agreement"
  ]
  title = f"Judge {name} against people, {len(groups)} rows"
  return {"title": title, "columns": ["measure", name], "rows": rows}, numbers


def _cell(value: float) -> str:
  if isinstance(value, int):
    return str(value)
  return "–" if np.isnan(value) else f"{value:.3f}"


def _word(p: float) -> str:
  return "tie" if p == 0.5 else str(int(p > 0.5))


def _share(row: calibration.Bin) -> str:
  return f"{row.accuracy:.2f} of {row.n}" if row.n else "–"
