"""Prompts to sample from, in the order in which they come."""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np

from xpo_jax.data import load, ordering, planning, templates
from xpo_jax.data.planning import Plan, Shape
from xpo_jax.data.records import (
  Account,
  Group,
  Prompt,
  TokenGroup,
  settle,
)
from xpo_jax.errors import data_error, usage_error
from xpo_jax.online import settings
from xpo_jax.types import Feedback


def read(config) -> tuple[list[Group], list[Group]]:
  """(training, held-out) prompts without completions; the latter may be none.

  Raises:
    XpoError: bad data, or a prompt in both.
  """
  first, limit = config.data.first, config.data.limit
  train = load.prompts(config.data, limit and first + limit)[first:]
  held = []
  if settings.has_held_out(config):
    other = config.data.copy_and_resolve_references().unlock()
    other.source = config.data.eval_source or config.data.source
    other.split = config.data.eval_split
    held = load.prompts(other, config.data.eval_limit)
    both = {g.prompt for g in train} & {g.prompt for g in held}
    if both:
      raise data_error(
        f"{len(both)} prompts of {other.source} are training prompts too; "
        "take them out of one of the two"
      )
  return train, held


@dataclasses.dataclass(frozen=True)
class Prompts:
  """As ids and, in the same order, as what a judge reads."""

  groups: list[TokenGroup]  # without completions
  texts: list[Prompt]
  table: list[tuple[str, int]]


def tokenize(config, groups: list[Group], tokenizer) -> Prompts:
  """Ids of prompts; too long ones are dropped or cut, as data.overlong_prompt.

  Raises:
    XpoError: no tokenizer, too many drops, or nothing left.
  """
  if tokenizer is None:
    raise usage_error(
      f"model.source={config.model.source!r} has no tokenizer; add "
      "tokenizer.json to the folder"
    )
  form = templates.make_template(tokenizer, config.data.template)
  room, account = config.data.max_prompt_length, Account()
  kept, texts = [], []
  for group in groups:
    account.read += 1
    ids = np.asarray(form.prompt(group.prompt), np.int32)
    if not len(ids):
      account.dropped["empty"] += 1
      continue
    if len(ids) > room and config.data.overlong_prompt == "drop":
      account.dropped["prompt_too_long"] += 1
      continue
    account.notes["truncated_prompt"] += len(ids) > room
    own = templates.cut_left(ids, room, tokenizer.bos_id)
    texts.append(group.prompt)
    kept.append(
      TokenGroup(
        id=group.id,
        cluster=group.cluster,
        prompt=own,
        completions=(),
        ended=(),
        feedback=(),
        kind=Feedback.SCORE,
      )
    )
  account.used = len(kept)
  account.notes += {}
  settle(account, config.data.source, config.data.on_bad_row)
  for warning in account.warnings:
    print(f"warning: {warning}")
  return Prompts(kept, texts, account.table())


def rollouts(config, count: int) -> int:
  """How many the run makes, from train.steps or train.epochs.

  Raises:
    XpoError: fewer prompts than a rollout takes.
  """
  own, train = settings.sizes(config), config.train
  if own.prompts > count:
    raise data_error(
      f"{config.data.source}: {count} usable prompts are fewer than the "
      f"{own.prompts} of a rollout; lower rollout.prompts or batch.prompts"
    )
  passes = math.ceil(train.epochs * count / own.prompts - 1e-6)
  return train.steps // own.updates or max(1, passes)


def plan(
  config,
  groups: list[TokenGroup],
  number: int,
  parts: int,
  held: Sequence[TokenGroup] = (),
) -> Plan:
  """Which prompts every draw takes, and a shape that holds any samples.

  `order` is int [rollouts * max_batches, prompts]. Every group has room for its
  longest completions, so that no rollout compiles anything anew: with rows of g
  such places, longest-first packing always succeeds.

  Args:
    config: a whole tree.
    groups: prompts.
    number: of rollouts.
    parts: devices that share the rows.
    held: prompts that are packed in the same shape for evaluations.
  """
  own, new = settings.sizes(config), config.data.max_completion_length
  prompt = planning.group_lengths(groups)[:, :1]
  lengths = np.concatenate(
    [prompt, np.full((len(groups), own.completions), new, np.int32)], axis=1
  )
  cost = np.repeat(prompt, 2, axis=1)
  draws = number * config.rollout.max_batches
  order = ordering.stream(cost, own.prompts, draws, config.seed)
  prompts = config.batch.prompts // config.batch.microbatches
  longest = max(len(g.prompt) for g in (*groups, *held))
  place = longest + own.completions * new
  in_row = max(1, min(config.batch.row_length // place, prompts // parts))
  rows = -(-prompts // in_row)
  shape = Shape(
    prompts=prompts,
    completions=own.completions,
    tokens=new,
    rows=rows + -rows % parts,
    row_length=in_row * place,
    targets=in_row * own.completions * new,
  )
  return Plan(order, shape, config.batch.microbatches, lengths)


def pad(groups: list[TokenGroup], width: int) -> tuple[np.ndarray, np.ndarray]:
  """int32 [B, width] ids and [B] lengths, always of one width."""
  lengths = np.array([len(g.prompt) for g in groups], np.int32)
  tokens = np.zeros((len(groups), width), np.int32)
  for row, group in zip(tokens, groups, strict=True):
    row[: len(group.prompt)] = group.prompt
  return tokens, lengths
