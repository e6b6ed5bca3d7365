"""What a generate stage tells: samples with scores, numbers, tables."""

import collections
from collections.abc import Sequence
import math
from typing import Any

import numpy as np

from xpo_jax.data import dialogues
from xpo_jax.judges.candidates import Judgement
from xpo_jax.score_rows import plain_prompt
from xpo_jax.stages import drawing, selection
from xpo_jax.stages.selection import Judged, Selected

SHOWN = 4  # prompts in the report
_WORDS = {  # number -> its row in the table
  "prompts": "prompts sampled from",
  "kept": "prompts that left rows",
  "score": "mean score of the samples",
  "best": "mean score of the best of a prompt",
  "worst": "mean score of the worst",
  "gap": "mean gap, better minus worse",
  "score_gold": "mean score of the data's own",
  "wins_over_gold": "samples that beat the data's own",
  "unique": "different texts among the samples",
  "ended": "samples that ended",
  "characters": "characters of a sample",
  "characters_better": "characters of the better ones",
  "characters_worse": "characters of the worse ones",
  "acceptance": "candidates that the first pass accepts",
  "passes": "passes of rejection sampling",
  "invalid": "verdicts that are none",
  "judge/flagged": "samples that say nothing, not judged",
  "judge/position_bias": "pairs in which the place decides",
}


def samples(settings, judged: Judged) -> list[dict]:
  """The rows of `samples.jsonl`: every text with its score and its policy.

  The policy is its place among the settings' policies, -1 the data's own text.
  """
  own = judged.candidates
  policies = drawing.policy_of(settings.completions, len(settings.policies))
  policies += [-1] * judged.gold
  return [
    {
      "prompt": plain_prompt(prompt),
      "texts": list(own.texts[b]),
      "scores": [_finite(x) for x in judged.scores[b]],
      "ended": own.ended[b].tolist(),
      "policy": policies,
    }
    for b, prompt in enumerate(own.prompts)
  ]


def replies(name: str, asked: Sequence[Judgement]) -> dict[str, Any]:
  """How the judge did: replies, the share without a verdict, its metrics."""
  count = sum(own.asked for own in asked)
  bad = sum(sum(own.invalid.values()) for own in asked)
  metrics = {k: v for own in asked for k, v in own.metrics.items()}
  return {"judge": name, "asked": count, "invalid": bad / max(1, count)} | {
    k: _finite(v) for k, v in metrics.items()
  }


def summary(
  settings,
  judged: Judged,
  found: Selected,
  dropped: collections.Counter,
  numbers: dict[str, Any],
) -> dict:
  """{"tables", "samples", "numbers"}: the latter by the names of `_WORDS`.

  Args:
    settings: of the stage.
    judged: all that was drawn.
    found: what was selected.
    dropped: reason -> prompts, of all that were asked.
    numbers: what is known already.
  """
  kept = sum(map(bool, found.rows))
  own = {
    "prompts": kept + sum(dropped.values()),
    "kept": kept,
    "dropped": dict(sorted(dropped.items())),
    **_measures(settings, judged),
    "gap": _mean(found.gaps),
    **_lengths(found),
    **numbers,
  }
  own = {k: _finite(v) if isinstance(v, float) else v for k, v in own.items()}
  table = [
    [words, f"{own[name]:.4g}" if isinstance(own[name], float) else own[name]]
    for name, words in _WORDS.items()
    if own.get(name) is not None
  ]
  table += [[f"dropped: {k}", n] for k, n in own["dropped"].items()]
  title = f"{settings.select} of {settings.completions} samples a prompt"
  if own.get("judge"):
    title += f", judged by {own['judge']}"
  table = {
    "title": title,
    "columns": ["", "value"],
    "rows": [[words, str(value)] for words, value in table],
  }
  shown = _shown(judged, found, own.get("judge"))
  return {"tables": [table], "samples": shown, "numbers": own}


def _measures(settings, judged: Judged) -> dict[str, Any]:
  """Of the samples, the data's own apart."""
  count, own = settings.completions, judged.candidates
  present, scores = own.present[:, :count], judged.scores[:, :count]
  known = np.isfinite(scores).any(1)
  some = scores[known]
  unlike = selection.distinct(judged)[:, :count]
  sizes = np.array([[len(t) for t in texts[:count]] for texts in own.texts])
  out = {
    "score": _mean(scores),
    "best": _mean(np.nanmax(some, 1)) if len(some) else math.nan,
    "worst": _mean(np.nanmin(some, 1)) if len(some) else math.nan,
    "unique": _mean(unlike.sum(1) / np.maximum(1, present.sum(1))),
    "ended": _mean(own.ended[:, :count].astype(float)),
    "characters": _mean(sizes.astype(float)),
  }
  policies = np.array(drawing.policy_of(count, len(settings.policies)))
  if len(settings.policies) > 1:
    own_mean = lambda p: _finite(_mean(scores[:, policies == p]))
    out["score_by_policy"] = [own_mean(p) for p in range(policies.max() + 1)]
  if judged.gold:
    gold = judged.scores[:, count:]
    won = np.where(scores == gold, 0.5, scores > gold)
    both = np.isfinite(scores) & np.isfinite(gold)
    out["score_gold"] = _mean(gold)
    out["wins_over_gold"] = _mean(np.where(both, won, np.nan))
  return out


def _lengths(found: Selected) -> dict[str, float]:
  """Mean characters on either side of pairs, or of what is imitated."""
  rows = [row for own in found.rows for row in own]
  side = lambda name: _mean(
    np.array([len(_text(row[name])) for row in rows if name in row], float)
  )
  better = "completion" if rows and "completion" in rows[0] else "chosen"
  return {
    "characters_better": side(better),
    "characters_worse": side("rejected"),
  }


def _text(side: str | list[dict]) -> str:
  return side if isinstance(side, str) else side[0]["content"]


def _shown(judged: Judged, found: Selected, judge: str | None) -> list[dict]:
  """The highest and the lowest of some prompts, as report.py shows samples."""
  own, out = judged.candidates, []
  for b, rows in enumerate(found.rows):
    if not rows or len(out) == SHOWN:
      continue
    scores = judged.scores[b]
    known = np.flatnonzero(np.isfinite(scores))
    places = {"sample": int(np.flatnonzero(own.present[b])[0])}
    if len(known):
      places = {
        "highest score": int(known[np.argmax(scores[known])]),
        "lowest score": int(known[np.argmin(scores[known])]),
      }
    out.append(
      {
        "prompt": dialogues.as_text(own.prompts[b], cue=False).strip(),
        "texts": {name: own.texts[b][k] for name, k in places.items()},
        "scores": {
          name: {judge: float(scores[k])} if judge else {}
          for name, k in places.items()
        },
      }
    )
  return out


def _mean(x: np.ndarray) -> float:
  known = x[np.isfinite(x)]
  return float(known.mean()) if known.size else math.nan


def _finite(x: float) -> float | None:
  """JSON has no NaN."""
  return float(x) if math.isfinite(x) else None
