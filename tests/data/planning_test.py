"""Balanced batches, every group once an epoch, rows that fit."""

import numpy as np
import pytest

from xpo_jax.data import ordering, planning, rows
from xpo_jax.errors import XpoError


@pytest.mark.parametrize("seed", range(4))
def test_assign_keeps_both_limits_and_repairs_full_rows(seed):
  noise = np.random.default_rng(seed)
  # Built from 4 full rows of 40 slots and at most 20 targets: they must fit.
  slots = [np.diff([0, *sorted(noise.choice(np.arange(1, 40), 5, 0)), 40])] * 4
  items = np.stack([np.concatenate(slots), np.concatenate(slots) // 2], -1)
  row, packed = rows.assign(noise.permutation(items)[None], 4, 41, 20)
  assert packed.all() and set(row[0]) == {0, 1, 2, 3}
  refused = rows.assign(items[None], 4, 39, 20)[1]
  assert not refused.any()


def test_assign_does_not_depend_on_the_other_problems():
  noise = np.random.default_rng(0)
  slots = noise.integers(5, 40, (30, 12))
  items = np.stack([slots, slots // 2], -1)
  row, packed = rows.assign(items, 4, 75, 38)
  assert 5 < packed.sum() < 30
  for one, own, good in zip(items, row, packed):
    alone, fine = rows.assign(one[None], 4, 75, 38)
    assert fine[0] == good and (alone[0] == own).all()


def hh_like(number, seed=0):
  """Lognormal lengths like HH-RLHF's: prompt 140, completions 68 tokens."""
  noise = np.random.default_rng(seed)
  draw = lambda mean, most: np.clip(
    noise.lognormal(np.log(mean) - 0.32, 0.8, number).astype(np.int32), 2, most
  )
  return np.stack([draw(140, 512), draw(68, 256), draw(68, 256)], -1)


@pytest.mark.parametrize("prompts", [32, 64, 128])
def test_little_padding_in_trunk_and_head_at_once(prompts):
  lengths = hh_like(2000)
  steps = planning.steps_of(1, 2000, prompts)
  report = planning.padding_report(
    planning.plan(lengths, prompts=prompts, row_length=2048, steps=steps)
  )
  assert 1 <= report["trunk_ratio"] <= 1.1
  assert 1 <= report["head_ratio"] <= 1.1


def test_padding_report_counts_slots():
  lengths = np.array([[4, 2, 2], [2, 2, 0]], np.int32)
  plan = planning.plan_in_order(lengths, prompts=2, row_length=16)
  report = planning.padding_report(plan)
  assert report["needed_slots"] == report["placed_slots"] == 4 + 2 + 2 + 2 + 2
  assert report["scored_tokens"] == 6
  assert report["trunk_slots"] == plan.shape.rows * plan.shape.row_length
  assert report["trunk_ratio"] == report["trunk_slots"] / 12
  assert report["head_ratio"] == report["head_slots"] / 6


@pytest.mark.parametrize(
  "number, prompts", [(96, 32), (100, 32), (7, 16), (5, 1)]
)
def test_every_group_comes_once_an_epoch(number, prompts):
  cost = planning.costs(hh_like(number))
  steps = planning.steps_of(4, number, prompts)
  assert steps * prompts - 4 * number in range(prompts)
  order = ordering.stream(cost, prompts, steps, seed=3)
  for t in range(1, steps + 1):
    shown = np.bincount(order[:t].ravel(), minlength=number)
    assert shown.min() == t * prompts // number
    assert shown.max() == -(-t * prompts // number)


def test_order_is_seeded_and_a_longer_run_begins_alike():
  cost = planning.costs(hh_like(300))
  order = ordering.stream(cost, 32, 20, seed=1)
  assert (order == ordering.stream(cost, 32, 20, seed=1)).all()
  assert (order == ordering.stream(cost, 32, 30, seed=1)[:20]).all()
  assert (order != ordering.stream(cost, 32, 20, seed=2)).any()


def test_epochs_group_the_prompts_differently():
  cost = planning.costs(hh_like(320))
  first, second = ordering.stream(cost, 32, 20, seed=1).reshape(2, 10, 32)
  assert sorted(first.ravel()) == sorted(second.ravel()) == list(range(320))
  shared = [max(len({*a} & {*b}) for b in second) for a in first]
  assert max(shared) < 16


def test_batches_and_their_parts_are_balanced():
  cost = planning.costs(hh_like(3200))
  order = ordering.stream(cost, 64, 50, seed=0)
  shuffled = np.random.default_rng(0).permutation(3200).reshape(50, 64)
  for parts, bound in ((1, 0.01), (2, 0.02), (4, 0.1)):
    load = cost[order.reshape(50 * parts, -1)].sum(1)
    plain = cost[shuffled.reshape(50 * parts, -1)].sum(1)
    spread = np.abs(load / load.mean(0) - 1).max()
    assert spread <= bound < np.abs(plain / plain.mean(0) - 1).max()


def test_balancing_does_not_sort_the_epoch():
  """Long groups come early and late alike: no drift of lengths in time."""
  cost = planning.costs(hh_like(3200))
  order = ordering.stream(cost, 32, 100, seed=0)
  long = cost[:, 0] > np.quantile(cost[:, 0], 0.9)
  share = long[order].reshape(4, -1).mean(1)
  assert np.abs(share - 0.1).max() < 0.03


def test_plan_names_the_mend():
  lengths = np.array([[2, 3], [9, 4]], np.int32)
  with pytest.raises(XpoError, match="b:2: .*13 tokens, a row holds 12"):
    planning.plan(
      lengths, prompts=1, row_length=12, steps=1, ids=["b:1", "b:2"]
    )
  with pytest.raises(XpoError, match="microbatches: 3 does not divide"):
    planning.plan(lengths, prompts=4, row_length=16, steps=1, microbatches=3)
  with pytest.raises(XpoError, match="0 groups"):
    planning.plan(lengths[:0], prompts=4, row_length=16, steps=1)
  with pytest.raises(XpoError, match="group 1: empty prompt"):
    planning.plan(lengths * [[1], [0]], prompts=2, row_length=16, steps=1)
