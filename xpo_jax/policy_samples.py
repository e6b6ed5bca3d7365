"""What a policy writes to held-out prompts, kept in a file."""

import json
from pathlib import Path

import numpy as np

from xpo_jax import checkpoint, hosts, progress
from xpo_jax.data import templates
from xpo_jax.data.records import Prompt, TokenGroup
from xpo_jax.pretrained import Pretrained
from xpo_jax.types import Feedback


def sample_policy(
  name: str, policy: Pretrained, prompts, settings, folder: Path
) -> list[TokenGroup]:
  """K completions of every prompt, kept in `samples-NAME.jsonl`."""
  path = folder / f"samples-{name}.jsonl"
  kind = template_name(policy, settings.template)
  template = templates.make_template(policy.tokenizer, kind)
  ids = [template.prompt(g.prompt) for g in prompts]
  rows = hosts.first(lambda: _kept(path))
  if rows is None:
    rows, size = [], settings.prompts_at_once
    policy = policy.spread()
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
              "prompt": shown(prompts[start + b].prompt),
              "tokens": [
                t[m].tolist() for t, m in zip(samples.tokens[b], mask)
              ],
              "ended": samples.ended[b].tolist(),
            }
          )
        task.advance(n=len(part))
    checkpoint.write_text(path, "\n".join(map(json.dumps, rows)) + "\n")
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


def _kept(path: Path) -> list[dict] | None:
  """The rows of an earlier try; None if there are none."""
  if not path.exists():
    return None
  return [json.loads(line) for line in path.read_text().splitlines()]


def template_name(policy: Pretrained, name: str) -> str:
  """plain or chat; auto is what the policy was trained with, or has."""
  return templates.usual(policy.tokenizer) if name == "auto" else name


def shown(prompt: Prompt) -> str:
  """A prompt as one text, the turns of a conversation on lines."""
  if isinstance(prompt, str):
    return prompt
  return "\n".join(f"{m.role}: {m.content}" for m in prompt)
