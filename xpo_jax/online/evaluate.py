"""The policy on held-out prompts: reward, gold, KL, lengths, diversity."""

import dataclasses
from pathlib import Path

import numpy as np

from xpo_jax.evals import text
from xpo_jax.judges.tally import Tally
from xpo_jax.online import columns, groups, journal, rollout, trunk, verdicts
from xpo_jax.online import settings as settings_lib
from xpo_jax.types import TrainState

_FIRST = 2**30  # numbers of draws that no training rollout has


def run(
  tools: rollout.Tools, state: TrainState, folder: Path, step: int
) -> dict[str, float]:
  """Means over held-out prompts; {} without any.

  The noise is that of every other evaluation: differences are the policy's.
  """
  given, tools = tools, _judging(tools)
  more = {} if tools is given else {"against": "reference"}
  job = tools.job
  held, size = job.online.held, settings_lib.sizes(job.config).prompts
  if held is None:
    return {}
  found, tally, gold_tally = [], Tally(), Tally()
  for n, at in enumerate(range(0, len(held.groups), size)):
    own = [*range(at, min(at + size, len(held.groups)))]
    filled = own + [own[-1]] * (size - len(own))
    prompts = [held.groups[i] for i in filled]
    texts = [held.texts[i] for i in own]
    path = lambda what, n=n: (
      journal.folder_of(folder) / f"e{step:06d}.{n}.{what}"
    )
    order = np.array(filled)
    drawn, other = rollout.sample(
      tools,
      state,
      prompts,
      (_FIRST // size) // 2 + n,
      path("samples"),
      rollout.label_of(tools, state, order, n) | more,
    )
    mine, theirs = _first(drawn, len(own)), _first(other, len(own))
    part = rollout.judge(
      tools, prompts[: len(own)], texts, mine, theirs, tally, path("judge")
    )
    tally = part.verdict.tally
    numbers = _numbers(tools, state, prompts, drawn, part, len(own))
    if tools.gold is not None:
      best = verdicts.score(
        tools.gold,
        texts,
        part.verdict.texts,
        mine.ended,
        gold_tally,
        path("gold"),
      )
      gold_tally = best.tally
      numbers["gold"] = _mean(best.scores)
    found.append((len(own), numbers))
    tools.alive()
  names = {name for _, numbers in found for name in numbers}
  sizes = np.array([n for n, _ in found])
  return {
    name: _mean(np.array([numbers[name] for _, numbers in found]), sizes)
    for name in sorted(names)
  }


def _judging(tools: rollout.Tools) -> rollout.Tools:
  """A pair judge holds samples against the reference's, if there is one.

  Among themselves a prompt's samples win half of their pairs, good or bad.
  """
  job = tools.job
  if not settings_lib.is_relative(job.config):
    return tools
  needs = job.objective.method.needs(job.objective.settings)
  if not settings_lib.meets_reference(job.config, needs):
    return tools
  config = job.config.copy_and_resolve_references().unlock()
  config.rollout.select, config.rollout.opponent = "against", "reference"
  job = dataclasses.replace(job, config=config.lock())
  return tools._replace(job=job, drawer=tools.drawer._replace(job=job))


def _mean(values: np.ndarray, sizes: np.ndarray | None = None) -> float:
  """Of the numbers that there are; NaN if there is none."""
  there = np.isfinite(values)
  if not there.any():
    return float("nan")
  sizes = None if sizes is None else sizes[there]
  return float(np.average(values[there], weights=sizes))


def _first(drawn, count: int):
  """Without the prompts that only fill the batch up."""
  return drawn and type(drawn)(*(x[:count] for x in drawn))


def _numbers(tools, state, prompts, drawn, part, count) -> dict[str, float]:
  """Of one draw; `count` of its prompts are not filled up.

  Win rates among a prompt's samples are no reward: their mean is 1/2.
  """
  job = tools.job
  size = job.plan.shape.completions
  ones = np.full(drawn.ended.shape, 0.0)
  ones[:, size:] = np.nan
  ones[count:] = np.nan
  few = drawn._replace(
    **{k: getattr(drawn, k)[:, :size] for k in drawn._fields}
  )
  own = groups.keep_all(prompts, few, ones[:, :size])
  if size > drawn.ended.shape[1]:  # a pair with an opponent: one sample each
    own = groups.against_pair(
      prompts,
      few,
      few,
      np.where(np.isnan(ones[:, :1]), np.nan, 0.5),
      np.zeros(len(prompts), bool),
    )
  states = trunk.states(job, tools.trunk, own)
  x = columns.score(job, tools.score, state.params, own, states)
  mask = drawn.mask[:count]
  said = [t for row in part.verdict.texts for t in row]
  reward = {} if part.verdict.relative else {"reward": _mean(part.scores)}
  numbers = columns.divergence(x) | reward
  numbers |= {
    "scored": float(np.isfinite(part.scores).mean()),
    "tokens": float(mask.sum(-1).mean()),
    "ended": float(drawn.ended[:count].mean()),
    "distinct_2": float(np.nan_to_num(text.distinct_n(said, 2))),
    "sequence_entropy": float(-(drawn.logps[:count] * mask).sum(-1).mean()),
  }
  if tools.token_rewards:
    earned = rollout.token_rewards(tools, own, x)
    earned = rollout.mean_return(earned, x)
    numbers["reward"] = numbers.get("reward", 0.0) + earned
  return numbers
