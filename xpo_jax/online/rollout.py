"""One rollout from prompts to groups that carry every number of the loss."""

from collections.abc import Callable, Sequence
import dataclasses
from pathlib import Path
import time
from typing import NamedTuple

import jax
import numpy as np

from xpo_jax import judge_config, parallel
from xpo_jax.data.records import Prompt, TokenGroup
from xpo_jax.judges.tally import Tally
from xpo_jax.online import columns, draw, journal, rewards, verdicts
from xpo_jax.online import groups as groups_lib
from xpo_jax.online import settings as settings_lib
from xpo_jax.online import trunk as trunk_lib
from xpo_jax.online.draw import Drawn
from xpo_jax.online.groups import Groups
from xpo_jax.types import PyTree, TrainState


class Tools(NamedTuple):
  """What every rollout of a run uses."""

  job: object
  drawer: draw.Drawer
  score: Callable
  trunk: Callable | None
  prepare: Callable
  judge: judge_config.Built | None  # None: token rewards alone
  gold: judge_config.Built | None
  token_rewards: Callable | None  # groups -> numbers [n_k] a completion
  alive: Callable[[], None]
  told: Callable[[], None] = lambda: None  # raises stopping.Told


class Part(NamedTuple):
  """One draw of prompts and what came of it."""

  groups: Groups
  scores: np.ndarray  # [B, K] raw
  feedback: np.ndarray  # [B, K] shaped
  drawn: Drawn
  verdict: verdicts.Verdict


@dataclasses.dataclass
class Rollout:
  """Groups with their columns, numbers for the log, the method's new state."""

  groups: Groups
  metrics: dict[str, float]
  method_state: PyTree
  trunk: trunk_lib.States | None


def sample(
  tools: Tools,
  state: TrainState,
  prompts: Sequence[TokenGroup],
  number: int,
  path: Path | None,
  label: dict,
) -> tuple[Drawn, Drawn | None]:
  """The policy's samples of a draw, and the opponent's; from `path` if there.

  Args:
    tools: of the run.
    state: whose policy is sampled.
    prompts: B.
    number: of the draw in the run, for its noise.
    path: file of the samples; None: nothing is kept.
    label: what the samples follow from; a file with another one is not used.
  """
  other = tools.job.config.rollout.opponent != "none"
  found = journal.read(path, label) if path else None
  if not parallel.all_agree(found is not None):  # hosts without this folder
    found = None
  if found is None:
    if path:
      journal.forget(path, label)
    rows = number * len(prompts) + np.arange(len(prompts))
    mine = draw.policy(tools.drawer, state, prompts, rows)
    tools.alive()
    found = dict(zip(Drawn._fields, mine, strict=True))
    if other:
      theirs = draw.opponent(tools.drawer, state, prompts, rows)
      tools.alive()
      found |= {f"other_{k}": v for k, v in theirs._asdict().items()}
    if path:
      journal.write(path, found, label)
  mine = Drawn(*(found[k] for k in Drawn._fields))
  if not other:
    return mine, None
  return mine, Drawn(*(found[f"other_{k}"] for k in Drawn._fields))


def judge(
  tools: Tools,
  prompts: Sequence[TokenGroup],
  texts: Sequence[Prompt],
  drawn: Drawn,
  other: Drawn | None,
  tally: Tally,
  path: Path | None,
) -> Part:
  """Scores of samples, and the groups that follow from them."""
  job, own = tools.job, tools.job.config.rollout
  read = lambda d: verdicts.texts_of(
    d, texts, job.tokenizer, job.config.data.template
  )
  mine, same = read(drawn), np.zeros(len(prompts), bool)
  if other is not None:
    theirs = read(other)
    same = np.array([a == b for a, b in zip(mine, theirs, strict=True)], bool)
    found = verdicts.against(
      tools.judge, texts, mine, theirs, drawn.ended, other.ended, tally, path
    )
    feedback = found.scores
  else:
    found = verdicts.score(tools.judge, texts, mine, drawn.ended, tally, path)
    feedback = rewards.shaped(
      found.scores,
      drawn.ended,
      drawn.mask.sum(-1),
      np.array([[len(t) for t in row] for row in mine]),
      clip_scores=own.clip_scores,
      missing_eos_penalty=own.missing_eos_penalty,
      length_penalty=own.length_penalty,
      overlong_buffer=own.overlong_buffer,
      longest=job.config.data.max_completion_length,
    )
  make = {
    "keep_all": lambda: groups_lib.keep_all(prompts, drawn, feedback),
    "best_worst": lambda: groups_lib.best_worst(prompts, drawn, feedback, mine),
    "against": lambda: groups_lib.against(prompts, drawn, feedback),
    "against_pair": lambda: groups_lib.against_pair(
      prompts, drawn, other, feedback, same
    ),
  }
  return Part(make[own.select](), found.scores, feedback, drawn, found)


def make(
  tools: Tools, state: TrainState, number: int, tally: Tally, run: Path
) -> tuple[Rollout, Tally]:
  """Rollout `number`: drawn, judged, scored; each part sealed when it is done.

  With rollout.max_batches > 1, prompts whose scores are all equal are left out
  and further ones drawn in their place (DAPO).

  Raises:
    Told: of `stopping`, after samples or verdicts, which are then on the disk.
  """
  job, own = tools.job, tools.job.config.rollout
  began, spent = time.monotonic(), {}

  def lap(name):
    nonlocal began
    now = time.monotonic()
    spent[name] = spent.get(name, 0.0) + now - began
    began = now

  parts, kept = [], []
  size = settings_lib.sizes(job.config).prompts
  for batch in range(own.max_batches):
    at = number * own.max_batches + batch
    order = job.plan.order[at]
    prompts = [job.train.groups[i] for i in order]
    texts = [job.online.train.texts[i] for i in order]
    path = lambda what, b=batch: journal.file_of(run, number, f"{b}.{what}")
    label = label_of(tools, state, order, at)
    drawn, other = sample(tools, state, prompts, at, path("samples"), label)
    lap("sampling")
    tools.told()
    part = judge(tools, prompts, texts, drawn, other, tally, path("judge"))
    tally = part.verdict.tally
    tools.alive()
    lap("judging")
    tools.told()
    parts.append((part, texts))
    decided = np.ones(len(prompts), bool)
    if own.max_batches > 1:
      decided = rewards.decided(part.scores)
    kept += [g for g, d in zip(part.groups, decided, strict=True) if d and g]
    if len(kept) >= size:
      break
  if own.max_batches == 1:
    chosen = parts[0][0].groups
  else:
    chosen = [*kept[:size], *[None] * (size - len(kept))]
  metrics = _metrics(parts, chosen)
  if not metrics["prompts/used"] and jax.process_index() == 0:
    print(_nothing(number, metrics))
  _write_texts(run, number, parts)
  result = _score(tools, state, chosen, metrics)
  lap("scoring")
  result.metrics.update({f"perf/seconds_{k}": v for k, v in spent.items()})
  result.metrics.update(tally.metrics())
  return result, tally


def label_of(tools: Tools, state: TrainState, order, number: int) -> dict:
  """What samples follow from, so that a file of others is not taken for them.

  Samples drawn ahead of their turn come from an earlier policy.
  """
  config = tools.job.config
  label = {"seed": config.seed, "draw": number, "prompts": order.tolist()}
  if not config.rollout.ahead:
    label["policy"] = _checksum(state.params["policy"])
  return label


@jax.jit
def _sums(tree):
  return [abs(x).sum() for x in jax.tree.leaves(tree)]


def _checksum(tree: PyTree) -> str:
  return " ".join(float(x).hex() for x in _sums(tree))


def _score(tools: Tools, state, chosen: Groups, metrics) -> Rollout:
  job = tools.job
  trunk = trunk_lib.states(job, tools.trunk, chosen)
  x = columns.score(job, tools.score, state.params, chosen, trunk)
  tools.alive()
  metrics |= columns.gap(x) | columns.divergence(x)
  objective = job.objective
  if tools.token_rewards:
    earned = token_rewards(tools, chosen, x)
    x = x.replace(token_feedback=earned)
    metrics["rewards/token_sum"] = mean_return(earned, x)
  host_state = jax.tree.map(parallel.to_host, state.method_state)
  x = tools.prepare(x.replace(state=host_state))
  explained = columns.explained(x)
  if np.isfinite(explained):
    metrics["value/explained"] = explained
  groups = columns.attach(chosen, x, columns.names(objective))
  return Rollout(groups, metrics, x.state, trunk)


def mean_return(earned: np.ndarray, x) -> float:
  """The mean over samples of the sum of their tokens' rewards."""
  there = np.asarray(x.completion_mask).any(-1)
  return float(np.sum(earned.sum(-1) * there) / max(1, there.sum()))


def token_rewards(tools: Tools, groups: Groups, x) -> np.ndarray:
  """[P, K, T], 0 where there is no token."""
  out = np.zeros(x.completion_mask.shape, np.float32)
  there = [b for b, g in enumerate(groups) if g is not None]
  found = tools.token_rewards([groups[b] for b in there])
  for b, own in zip(there, found, strict=True):
    for k, values in enumerate(own):
      out[b, k, : len(values)] = values
  return out


def _metrics(parts, chosen: Groups) -> dict[str, float]:
  lengths = np.concatenate([p.drawn.mask.sum(-1).reshape(-1) for p, _ in parts])
  ended = np.concatenate([p.drawn.ended.reshape(-1) for p, _ in parts])
  drawn = sum(len(p.groups) for p, _ in parts)
  scores = np.concatenate([p.scores.reshape(-1) for p, _ in parts])
  feedback = np.concatenate([p.feedback.reshape(-1) for p, _ in parts])
  valid = np.isfinite(scores)
  alike = np.concatenate([rewards.alike(p.scores) for p, _ in parts])
  numbers = _of_judges([p.verdict.metrics for p, _ in parts])
  numbers |= {
    "completions/tokens": lengths.mean(),
    "completions/ended": ended.mean(),
    "prompts/used": sum(g is not None for g in chosen) / drawn,
    "judge/scored": valid.mean(),
    "judge/equal": alike.mean(),
  }
  if valid.any():
    numbers["rewards/judge_std"] = scores[valid].std()
  if valid.any() and not parts[0][0].verdict.relative:
    numbers |= {
      "rewards/judge": scores[valid].mean(),
      "rewards/shaped": feedback[valid].mean(),
    }
  return {k: float(v) for k, v in numbers.items()}


def _of_judges(found: Sequence[dict[str, float]]) -> dict[str, float]:
  """Means over the draws, which have the same number of prompts."""
  numbers = {}
  for name in dict.fromkeys(name for own in found for name in own):
    values = [own[name] for own in found if np.isfinite(own.get(name, np.nan))]
    numbers[name] = float(np.mean(values)) if values else float("nan")
  return numbers


def _nothing(number: int, metrics: dict[str, float]) -> str:
  """The warning of a rollout of which no prompt is used."""
  share = lambda name: f"{metrics.get(name, 0.0):.0%}"
  return (
    f"warning: rollout {number} has nothing to learn from, its steps have no "
    f"gradient: {share('judge/scored')} of its samples have a score, "
    f"{share('judge/flagged')} say nothing, {share('judge/equal')} of its "
    "prompts have equal scores"
  )


def _write_texts(run: Path, number: int, parts) -> None:
  prompts = [p for _, texts in parts for p in texts]
  join = lambda pick: [row for part, _ in parts for row in pick(part)]
  journal.write_texts(
    run,
    number,
    prompts,
    join(lambda p: p.verdict.texts),
    join(lambda p: p.scores),
    join(lambda p: p.drawn.ended),
  )
