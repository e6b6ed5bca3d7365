"""Scored completions as JSONL rows, texts of single tokens, and the summary."""

from collections.abc import Sequence
import dataclasses

import numpy as np
from tokenizers.decoders import DecodeStream

from xpo_jax.data.convert import PAIRED
from xpo_jax.data.records import Group, Prompt, TokenGroup
from xpo_jax.evals import statistics
from xpo_jax.models.weights.tokenizer import Tokenizer
from xpo_jax.types import Feedback

Summary = dict[str, statistics.Estimate]


@dataclasses.dataclass(frozen=True)
class Scored:
  """One group with its rewards; the lists have one array [n_k] a completion.

  A list is None where there is no such number.
  """

  group: Group
  tokens: TokenGroup
  rewards: np.ndarray  # [K]
  credits: list[np.ndarray] | None = None
  logps: list[np.ndarray] | None = None
  reference_logps: list[np.ndarray] | None = None


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[tuple[str, str]]:
  """(text, name if it is a control token) of each id.

  The texts join to `tokenizer.decode(ids)`. A token that ends inside a
  character has "", the one that completes it the whole character; a control
  token has "".
  """
  added = tokenizer.core.get_added_tokens_decoder()
  special = {i: token.content for i, token in added.items() if token.special}
  names = [special.get(int(i), "") for i in ids]
  stream = DecodeStream(skip_special_tokens=True)
  texts = [stream.step(tokenizer.core, int(i)) or "" for i in ids]
  rest = tokenizer.decode(ids)[len("".join(texts)) :]
  if rest:  # cut inside a character
    last = max(n for n, name in enumerate(names) if not name)
    texts[last] += rest
  return list(zip(texts, names, strict=True))


def rows(scored: Scored, key: str, tokenizer: Tokenizer | None) -> list[dict]:
  """JSON-able rows, one a completion.

  Args:
    scored: a group.
    key: the name of the reward.
    tokenizer: to list the tokens with their credits; None leaves them out.
  """
  group, out = scored.group, []
  for k, ids in enumerate(scored.tokens.completions):
    row = {"id": group.id} | (
      {"cluster": group.cluster} if group.cluster else {}
    )
    row |= {
      "prompt": plain_prompt(group.prompt),
      "completion": group.completions[k],
      "k": k,
      "feedback": group.feedback[k],
      key: short(scored.rewards[k]),
      "length": len(ids),
      "ended": scored.tokens.ended[k],
    }
    if tokenizer is not None:
      row["tokens"] = _tokens(scored, k, tokenizer)
    out.append(row)
  return out


def _tokens(scored: Scored, k: int, tokenizer: Tokenizer) -> list[dict]:
  ids = scored.tokens.completions[k]
  out = []
  for n, (text, control) in enumerate(pieces(tokenizer, ids)):
    token = {"text": text}
    if control:
      token["control"] = control
    token["credit"] = short(scored.credits[k][n])
    for name, values in (
      ("logp", scored.logps),
      ("reference_logp", scored.reference_logps),
    ):
      if values is not None:
        token[name] = short(values[k][n])
    out.append(token)
  return out


def plain_prompt(prompt: Prompt) -> str | list[dict]:
  """A prompt as JSON: a text, or messages."""
  if isinstance(prompt, str):
    return prompt
  return [{"role": m.role, "content": m.content} for m in prompt]


def short(x: float) -> float:
  """Eight digits, which is what float32 numbers hold."""
  return float(f"{x:.8g}")


def ordered(group: Group) -> tuple[int, int] | None:
  """(best, worst) by the feedback; None for equals and what is no list."""
  if group.kind not in PAIRED and group.kind is not Feedback.SCORE:
    return None
  best, worst = int(np.argmax(group.feedback)), int(np.argmin(group.feedback))
  return (
    None if group.feedback[best] == group.feedback[worst] else (best, worst)
  )


def summarise(groups: Sequence[Group], rewards: Sequence) -> Summary:
  """Means with standard errors by cluster.

  Of pairs and lists: the best against the worst fed-back completion, with the
  share that the rewards rank alike; equals are left out. Of labels: each class.
  Otherwise: all completions.

  Args:
    groups: [N].
    rewards: [K] of every group.
  """
  if groups[0].kind is Feedback.BINARY:
    values = {"rewards/desirable": [], "rewards/undesirable": []}
    for group, reward in zip(groups, rewards, strict=True):
      for r, sign in zip(reward, group.feedback, strict=True):
        name = "desirable" if sign > 0 else "undesirable"
        values[f"rewards/{name}"].append((r, group.cluster))
    return {k: _mean(v) for k, v in values.items() if v}
  places = [ordered(group) for group in groups]
  if not any(places):
    return {
      "rewards": _mean(
        [(r, g.cluster) for g, rs in zip(groups, rewards) for r in rs]
      )
    }
  kept = [
    (reward[place[0]], reward[place[1]], group.cluster)
    for group, reward, place in zip(groups, rewards, places, strict=True)
    if place
  ]
  high, low = (np.array([row[n] for row in kept], float) for n in (0, 1))
  clusters = [row[2] for row in kept]
  mean = lambda x: statistics.clustered_mean(x, clusters)
  return {
    "rewards/chosen": mean(high),
    "rewards/rejected": mean(low),
    "rewards/margin": mean(high - low),
    "rewards/accuracy": statistics.accuracy(high - low, clusters),
  }


def _mean(values: list[tuple[float, str]]) -> statistics.Estimate:
  return statistics.clustered_mean(
    [v for v, _ in values], [cluster for _, cluster in values]
  )
