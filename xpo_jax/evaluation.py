"""Policies side by side on held-out prompts: samples, gold, rewards, KL."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from xpo_jax import checkpoint, fetch, held_out, pretrained, progress
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
  kind = settings.template
  kind = templates.usual(policy.tokenizer) if kind == "auto" else kind
  template = templates.make_template(policy.tokenizer, kind)
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
          end_id=template.end_id,
        )
        for b in range(len(part)):
          mask = samples.mask[b]
          rows.append(
            {
              "prompt": _shown(prompts[start + b].prompt),
              "tokens": [
                t[m].tolist() for t, m in zip(samples.tokens[b], mask)
              ],
              "ended": samples.ended[b].tolist(),
            }
          )
        task.advance(n=len(part))
    checkpoint.write_text(path, "\n".join(map(json.dumps, rows)) + "\n")
  else:
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


def _shown(prompt) -> str:
  if isinstance(prompt, str):
    return prompt
  return "\n".join(f"{m.role}: {m.content}" for m in prompt)


def _logps(split: Split, groups, trunk, name: str) -> list[np.ndarray]:
  """Token log-probs of every completion, in order."""
  look_up = states.reference_logps(
    split.model,
    Weights(split.trunk, split.top),
    groups,
    _cache(),
    trunk,
    progress.tracked(name),
  )
  return [x for g in groups for x in look_up(g)]


def _rewards(split: Split, groups, trunk, name: str) -> np.ndarray:
  """The reward head at every completion's last token, [N]; NaN if empty."""
  look_up = states.reward_scores(
    split.model,
    Weights(split.trunk, split.top),
    split.reward_head,
    groups,
    _cache(),
    trunk,
    progress.tracked(name),
  )
  found = [x for g in groups for x in look_up(g)]
  return np.array([x[-1] if len(x) else np.nan for x in found])


def _cache() -> Path:
  return fetch.cache_folder() / "states"


def divergence(policy: list, reference: list) -> tuple[np.ndarray, np.ndarray]:
  """KL(policy || reference) of each sampled sequence by k1 and by k3, nats.

  k1 = sum_t d_t, k3 = sum_t exp(-d_t) - 1 + d_t, d = log pi - log ref, the
  exponent clamped at 20 (methods.md 0.6). Samples at a temperature other than 1
  are not the policy's own: read both as a distance then, not as the KL.
  """
  gaps = [np.asarray(p - r) for p, r in zip(policy, reference, strict=True)]
  k1 = np.array([np.sum(d) for d in gaps])
  k3 = np.array([np.sum(np.exp(np.clip(-d, -20, 20)) - 1 + d) for d in gaps])
  return k1, k3


def held_out_accuracy(run: Path) -> statistics.Estimate | None:
  """Share of held-out pairs with a positive margin, clustered."""
  path = run / held_out.FILE
  if not path.is_file():
    return None
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  pairs = rows and "rewards/desirable" not in rows[0]
  if not pairs or "rewards/margin" not in rows[0]:
    return None
  margins = np.array([row["rewards/margin"] for row in rows])
  return statistics.accuracy(margins, [r["cluster"] or r["id"] for r in rows])


KEYS = (
  "baseline columns completions data final max_new_tokens policies prompts "
  "prompts_at_once reference rewards seed shared_blocks temperature template "
  "top_p"
).split()


def check(settings, where: str) -> None:
  """What can be wrong before any policy is trained.

  Raises:
    XpoError: a key is missing or unknown, or a name is no policy's.
  """
  for key in sorted({*KEYS} ^ {*settings}):
    problem = "is missing" if key in KEYS else "is unknown"
    raise usage_error(
      f"{where}.{key} {problem}; an evaluation has {', '.join(KEYS)}"
    )
  for key in ("baseline", "final", "reference"):
    if settings[key] not in settings.policies:
      raise usage_error(
        f"{where}.{key}={settings[key]!r} is none of its policies: "
        f"{', '.join(settings.policies)}"
      )


def run(settings, folder: Path) -> dict:
  """Samples and measures every policy; returns tables and samples.

  Args:
    settings: policies {name: source}, columns (their names in order), baseline
      and final (two of them),
      rewards {name: reward-model source}, reference (a name), data {source,
      split, format, on_bad_row}, prompts (0 = all), template (plain, chat, or
      auto: each policy's own), completions,
      max_new_tokens, temperature, top_p, seed, prompts_at_once, shared_blocks
      (frozen first blocks).
    folder: for samples and `evaluation.json`.

  Returns:
    {"tables", "samples"} as in report.py, "differences" and "means".
  """
  folder.mkdir(parents=True, exist_ok=True)
  prompts = load.prompts(settings.data, settings.prompts)
  open_all = lambda sources: {
    k: pretrained.load_pretrained(v) for k, v in sources.items()
  }
  loaded, judges = open_all(settings.policies), open_all(settings.rewards)
  policies = {k: loaded[k] for k in settings.columns}
  tokenizer = _common_tokenizer((*policies.values(), *judges.values()))
  _check_heads(settings.rewards, judges)
  splits = split_shared(
    {f"policy {k}": v for k, v in policies.items()}
    | {f"reward {k}": v for k, v in judges.items()},
    settings.shared_blocks,
  )
  known = text.vocabulary(load.texts(settings.data, "train"))
  measured, texts = {}, {}
  for name, policy in policies.items():
    groups = sample_policy(name, policy, prompts, settings, folder)
    texts[name] = [tokenizer.decode(c) for g in groups for c in g.completions]
    scores = _scores(settings, splits, name, groups)
    scorers = {
      "VADER": gold.vader,
      "TextBlob": gold.textblob,
      **{k: (lambda _, v=v: v) for k, v in scores.items()},
      "unknown words": lambda t: text.broken_words(t, known),
    }
    measured[name] = compare.measure(texts[name], scorers)
  clusters = [g.cluster for g in groups for _ in g.completions]
  return _summary(settings, prompts, measured, texts, clusters, folder)


def _check_heads(sources, judges: dict[str, Pretrained]) -> None:
  for name, judge in judges.items():
    if judge.reward_head is None:
      raise usage_error(
        f"evaluate.rewards.{name}={sources[name]}: no value head, these are a "
        "policy's weights; name a run of a reward model, as rm_bt"
      )


def _common_tokenizer(models):
  if any(m.tokenizer is None for m in models):
    raise usage_error(
      "evaluate: a policy or reward model has no tokenizer; add tokenizer.json "
      "to its folder"
    )
  if len({m.tokenizer.fingerprint() for m in models}) > 1:
    raise usage_error(
      "evaluate: policies and reward models have different tokenizers; compare "
      "models of one family"
    )
  return models[0].tokenizer


def _scores(settings, splits, name: str, groups) -> dict[str, np.ndarray]:
  """Reward models, distance to the reference and EOS of all samples."""
  own, reference = (splits[f"policy {k}"] for k in (name, settings.reference))
  trunk = None
  if own.model.trunk_blocks:
    trunk = states.trunk_states(
      own.model,
      own.trunk,
      groups,
      _cache(),
      progress.tracked(f"trunk states, {name}"),
    )
  scores = {
    judge: _rewards(
      splits[f"reward {judge}"], groups, trunk, f"{judge} of {name}"
    )
    for judge in settings.rewards
  }
  logps = (
    _logps(split, groups, trunk, f"log-probs, {name}")
    for split in (own, reference)
  )
  k1, k3 = divergence(*logps)
  scores[f"KL to {settings.reference}, k1"] = k1
  scores[f"KL to {settings.reference}, k3"] = k3
  ended = [float(e) for g in groups for e in g.ended]
  scores["ended with EOS"] = np.array(ended)
  return scores


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
      "prompt": _shown(prompts[b].prompt),
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
