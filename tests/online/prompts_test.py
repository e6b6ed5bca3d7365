"""Prompts, their order, and a shape that holds whatever is drawn."""

import dataclasses

import numpy as np
import pytest

from tests import runs
from tests.online import samples
from xpo_jax import config
from xpo_jax.data import packing
from xpo_jax.data.records import TokenGroup
from xpo_jax.errors import Exit, XpoError
from xpo_jax.online import prompts
from xpo_jax.types import Feedback


def online(tmp_path, **changes):
  base = {
    "rollout__completions": 3,
    "data__max_prompt_length": 16,
    "data__max_completion_length": 8,
    "batch__row_length": 64,
  }
  return runs.make(tmp_path, "rloo", **base | changes)


def filled(noise, group, completions, new):
  """The prompt with random completions, often the longest, some absent."""
  sizes = noise.choice([0, 1, new // 2, new, new, new], completions)
  return dataclasses.replace(
    group,
    completions=tuple(np.full(n, 3, np.int32) for n in sizes),
    ended=(True,) * completions,
    feedback=(0.0,) * completions,
  )


@pytest.mark.parametrize(
  "row_length, microbatches, parts",
  [(40, 1, 1), (64, 1, 1), (300, 1, 1), (300, 2, 2), (100, 1, 8), (75, 4, 1)],
)
def test_any_rollout_packs_into_the_shape(
  tmp_path, row_length, microbatches, parts
):
  c = online(
    tmp_path,
    batch__row_length=row_length,
    batch__microbatches=microbatches,
    batch__prompts=16,
  )
  groups = samples.prompts(40, low=1, high=16)
  plan = prompts.plan(c, groups, 3, parts)
  shape, noise = plan.shape, np.random.default_rng(row_length + parts)
  assert shape.rows % parts == 0 and shape.row_length <= row_length
  assert (shape.prompts, shape.completions) == (16 // microbatches, 3)
  for n in range(60):
    # The last ones are the longest of all; some places are empty.
    pick = noise.integers(0, 40, shape.prompts)
    own = [filled(noise, groups[i], 3, 8) for i in pick]
    if n > 50:
      longest = max(groups, key=lambda g: len(g.prompt))
      full = tuple(np.full(8, 3, np.int32) for _ in range(3))
      own = [
        dataclasses.replace(
          longest, completions=full, ended=(False,) * 3, feedback=(0.0,) * 3
        )
      ] * shape.prompts
    own = [None if noise.random() < n / 200 else g for g in own]
    batch = packing.pack(own, shape, Feedback.SCORE)
    there = [g for g in own if g is not None]
    wanted = sum(len(c) for g in there for c in g.completions)
    assert int(batch.completion_mask.sum()) == wanted
    used = sum(packing.group_cost(g)[0] for g in there)
    assert int((batch.group > 0).sum()) == used  # no prompt is repeated


def test_the_order_takes_every_prompt_before_any_again(tmp_path):
  c = online(tmp_path, rollout__prompts=8, rollout__max_batches=2)
  groups = samples.prompts(24)
  plan = prompts.plan(c, groups, 6, 1)
  assert plan.order.shape == (12, 8)
  passes = plan.order.reshape(-1, 24)
  assert (np.sort(passes, axis=1) == np.arange(24)).all()
  again = prompts.plan(c, groups, 6, 1)
  np.testing.assert_array_equal(again.order, plan.order)
  with c.unlocked():
    c.seed = 1
  assert (prompts.plan(c, groups, 6, 1).order != plan.order).any()


@pytest.mark.parametrize(
  "changes, count, wanted",
  [
    ({}, 24, 6),  # 6 steps, 1 a rollout
    ({"rollout__epochs": 3}, 24, 2),
    ({"rollout__prompts": 16, "rollout__epochs": 3}, 24, 1),
    ({"train__steps": 0, "train__epochs": 1.0}, 24, 3),
    ({"train__steps": 0, "train__epochs": 1.0}, 25, 4),
    ({"train__steps": 0, "train__epochs": 0.1}, 24, 1),
    (
      {"train__steps": 0, "train__epochs": 2.0, "rollout__prompts": 16},
      24,
      3,
    ),
  ],
)
def test_rollouts_of_a_run(tmp_path, changes, count, wanted):
  assert prompts.rollouts(online(tmp_path, **changes), count) == wanted


def test_too_few_prompts_for_a_rollout(tmp_path):
  words = "23 usable prompts are fewer than the 24 of a rollout"
  with pytest.raises(XpoError, match=words) as error:
    prompts.rollouts(online(tmp_path, rollout__prompts=24), 23)
  assert error.value.code == Exit.DATA


def test_prompts_in_both_files(tmp_path):
  c = online(tmp_path)
  train, held = prompts.read(c)
  assert (len(train), len(held)) == (24, 10)
  assert train[3].prompt == runs.pair(3)["prompt"]
  assert not train[0].completions
  runs.write(tmp_path / "held.jsonl", [runs.pair(n) for n in (30, 4, 31)])
  with pytest.raises(XpoError, match="^1 prompts of .* are training prompts"):
    prompts.read(c)


def test_padding_is_always_of_one_width():
  groups = samples.prompts(5, low=1, high=6)
  tokens, lengths = prompts.pad(groups, 16)
  assert tokens.shape == (5, 16) and tokens.dtype == np.int32
  for row, n, group in zip(tokens, lengths, groups, strict=True):
    np.testing.assert_array_equal(row[:n], group.prompt)
    assert not row[n:].any()


def test_held_out_prompts_have_room_too():
  """They may be longer than every training prompt."""
  c = config.base("tiny").unlock()
  c.rollout.completions, c.batch.prompts = 2, 4
  c.data.max_completion_length, c.batch.row_length = 8, 256
  group = lambda n: TokenGroup(
    f"p{n}", "", np.arange(1, n + 1, dtype=np.int32), (), (), (), Feedback.SCORE
  )
  train, held = [group(n) for n in (3, 4, 5, 5)], [group(9)]
  shape = prompts.plan(c, train, 1, 1, held).shape
  full = [np.ones(8, np.int32)] * 2
  filled = [
    dataclasses.replace(
      held[0], completions=tuple(full), ended=(True,) * 2, feedback=(0.0,) * 2
    )
  ] * 4
  assert packing.pack(filled, shape, Feedback.SCORE).completion_mask.all()
