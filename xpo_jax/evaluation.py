"""Policies side by side on held-out prompts: samples, gold, rewards, KL."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from xpo_jax import checkpoint, fetch, pretrained, progress, train
from xpo_jax.data import load, templates
from xpo_jax.data.records import TokenGroup
from xpo_jax.errors import usage_error
from xpo_jax.evals import compare, gold, statistics, text
from xpo_jax.models import model as lm
from xpo_jax.models import states
from xpo_jax.models.model import Model, Weights
from xpo_jax.pretrained import Pretrained
from xpo_jax.types import Feedback


@dataclasses.dataclass(frozen=True)
class Split:
  """A model with its frozen first blocks apart."""

  model: Model
  trunk: object
  top: object
  reward_head: object | None


def split_shared(models: dict[str, Pretrained], blocks: int) -> dict:
  """Splits all models after `blocks` blocks if they share these, else at 0."""
  parts = {k: lm.split(m.params, blocks) for k, m in models.items()}
  prints = {states.fingerprint(trunk) for trunk, _ in parts.values()}
  if len(prints) > 1:
    blocks = 0
    parts = {k: lm.split(m.params, 0) for k, m in models.items()}
  return {
    k: Split(
      dataclasses.replace(models[k].model, trunk_blocks=blocks),
      *parts[k],
      models[k].reward_head,
    )
    for k in models
  }


def sample_policy(
  name: str, policy: Pretrained, prompts, settings, folder: Path
) -> list[TokenGroup]:
  """K completions of every prompt, kept in `samples-NAME.jsonl`."""
  path = folder / f"samples-{name}.jsonl"
  template = templates.make_template(policy.tokenizer, settings.template)
  ids = [template.prompt(g.prompt) for g in prompts]
  if not path.exists():
    rows, size = [], settings.prompts_at_once
    with progress.track(len(ids), f"samples, {name}") as task:
      for start in range(0, len(ids), size):
        part = ids[start : start + size]
        padded = part + [part[-1]] * (size - len(part))
        samples, _ = policy.sample(
          padded,
          settings.max_new_tokens,
          settings.temperature,
          settings.top_p,
          seed=settings.seed + start,
          completions=settings.completions,
        )
        for b in range(len(part)):
          mask = samples.mask[b]
          rows.append(
            {
              "prompt": prompts[start + b].prompt,
              "tokens": [
                t[m].tolist() for t, m in zip(samples.tokens[b], mask)
              ],
              "ended": samples.ended[b].tolist(),
            }
          )
        task.advance(n=len(part))
    checkpoint.write_text(path, "\n".join(map(json.dumps, rows)) + "\n")
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  return [
    TokenGroup(
      id=g.id,
      cluster=g.cluster or g.id,
      prompt=p,
      completions=tuple(np.array(t, np.int32) for t in row["tokens"]),
      ended=tuple(row["ended"]),
      feedback=(1.0,) * len(row["tokens"]),
      kind=Feedback.DEMONSTRATION,
    )
    for g, p, row in zip(prompts, ids, rows, strict=True)
  ]


def _numbers(split: Split, groups, what: str, trunk=None) -> np.ndarray:
  """[N] sequence log-probs or last-token rewards of all completions."""
  folder = fetch.cache_folder() / "states"
  weights = Weights(split.trunk, split.top)
  if what == "rewards":
    look_up = states.reward_scores(
      split.model, weights, split.reward_head, groups, folder, trunk
    )
    return np.array(
      [x[-1] if len(x) else 0.0 for g in groups for x in look_up(g)]
    )
  look_up = states.reference_logps(split.model, weights, groups, folder, trunk)
  return np.array([np.sum(x) for g in groups for x in look_up(g)])


def divergence(policy: np.ndarray, reference: np.ndarray) -> np.ndarray:
  """k3 = exp(-d) - 1 + d >= 0 a sequence, d = log pi - log ref, clamped."""
  d = np.clip(policy - reference, -20, 20)
  return np.exp(-d) - 1 + d


def held_out_accuracy(run: Path) -> statistics.Estimate | None:
  """Share of held-out pairs with a positive margin, clustered."""
  path = run / train.HELD_OUT
  if not path.is_file():
    return None
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  if not rows or "rewards/margin" not in rows[0]:
    return None
  margins = np.array([row["rewards/margin"] for row in rows])
  return statistics.accuracy(margins, [r["cluster"] or r["id"] for r in rows])


def run(settings, folder: Path) -> dict:
  """Samples and measures every policy; returns tables and samples.

  Args:
    settings: policies {name: source}, baseline and final (names among them),
      rewards {name: reward-model source}, reference (a name), data {source,
      split, format, on_bad_row}, prompts (0 = all), template, completions,
      max_new_tokens, temperature, top_p, seed, prompts_at_once, shared_blocks
      (frozen first blocks).
    folder: for samples and `evaluation.json`.

  Returns:
    {"tables": [...], "samples": [...], "headline": {...}} as in report.py.
  """
  folder.mkdir(parents=True, exist_ok=True)
  prompts = load.prompts(settings.data, settings.prompts)
  policies = {
    k: pretrained.load_pretrained(v) for k, v in settings.policies.items()
  }
  judges = {
    k: pretrained.load_pretrained(v) for k, v in settings.rewards.items()
  }
  vocabularies = {
    m.tokenizer.fingerprint() for m in (*policies.values(), *judges.values())
  }
  if len(vocabularies) > 1:
    raise usage_error(
      "evaluate: policies and reward models have different tokenizers; compare "
      "models of one family"
    )
  tokenizer = next(iter(policies.values())).tokenizer
  splits = split_shared(
    {f"policy {k}": v for k, v in policies.items()}
    | {f"reward {k}": v for k, v in judges.items()},
    settings.shared_blocks,
  )
  known = text.vocabulary(load.texts(settings.data, "train"))
  measured, texts, clusters, kl = {}, {}, [], {}
  reference = splits[f"policy {settings.reference}"]
  for name, policy in policies.items():
    groups = sample_policy(name, policy, prompts, settings, folder)
    decode = lambda group: [tokenizer.decode(c) for c in group.completions]
    texts[name] = [t for g in groups for t in decode(g)]
    clusters = [g.cluster for g in groups for _ in g.completions]
    own = splits[f"policy {name}"]
    trunk = None
    if own.model.trunk_blocks:
      trunk = states.trunk_states(
        own.model, own.trunk, groups, fetch.cache_folder() / "states"
      )
    scores = {
      judge: _numbers(splits[f"reward {judge}"], groups, "rewards", trunk)
      for judge in judges
    }
    logps = _numbers(own, groups, "logps", trunk)
    base = _numbers(reference, groups, "logps", trunk)
    scores["KL to the reference (k1)"] = logps - base
    kl[name] = float(np.mean(divergence(logps, base)))
    ended = np.array([float(e) for g in groups for e in g.ended])
    scores["ended with EOS"] = ended
    scorers = {
      "VADER": gold.vader,
      "TextBlob": gold.textblob,
      **{k: (lambda _, v=v: v) for k, v in scores.items()},
      "unknown words": lambda t: text.broken_words(t, known),
    }
    measured[name] = compare.measure(texts[name], scorers)
    jax.clear_caches()
  return _summary(settings, prompts, measured, texts, clusters, folder)


def _summary(settings, prompts, measured, texts, clusters, folder) -> dict:
  base, final = settings.baseline, settings.final
  rows = compare.differences(
    measured[base], measured[final], clusters, seed=settings.seed
  )
  columns = {k: compare.estimates(m, clusters) for k, m in measured.items()}
  table = compare.final_table(
    f"{len(prompts)} held-out prompts x {settings.completions} samples, "
    f"temperature {settings.temperature}",
    columns,
    rows,
    f"{final} - {base}",
  )
  samples = [
    {
      "prompt": prompts[b].prompt,
      "texts": {k: t[b * settings.completions] for k, t in texts.items()},
      "scores": {
        k: {
          judge: float(m.per_text[judge][b * settings.completions])
          for judge in ("VADER", "TextBlob")
        }
        for k, m in measured.items()
      },
    }
    for b in range(len(prompts))
  ]
  result = {
    "tables": [table],
    "samples": samples,
    "differences": {r.measure: [float(x) for x in r.difference] for r in rows},
    "means": {
      k: {name: float(e.mean) for name, e in estimates.items()}
      for k, estimates in columns.items()
    },
  }
  checkpoint.write_json(folder / "evaluation.json", result)
  return result
