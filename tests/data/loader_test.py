"""The loader's position is one number, and resuming is exact."""

import json

import numpy as np
import pytest

from xpo_jax.data import loader, planning
from xpo_jax.data.records import TokenGroup
from xpo_jax.errors import XpoError
from xpo_jax.types import Feedback


def make_groups(number):
  noise = np.random.default_rng(0)
  draw = lambda: noise.integers(1, 99, noise.integers(1, 8)).astype(np.int32)
  return [
    TokenGroup(
      id=f"file:{n + 1}",
      cluster="",
      prompt=draw(),
      completions=(draw(), draw()),
      ended=(True, False),
      feedback=(1.0, 0.0),
      kind=Feedback.ORDER,
      weight=float(n + 1),
    )
    for n in range(number)
  ]


def start(groups, steps=7):
  plan = planning.plan(
    planning.group_lengths(groups), prompts=4, row_length=48, steps=steps
  )
  return plan, loader.make_loader(groups, plan, Feedback.ORDER, threads=2)


def same(one, other):
  return all(
    np.array_equal(getattr(one, name), getattr(other, name))
    for name in ("tokens", "group", "target_slot", "feedback", "weight")
  )


def test_steps_come_in_order_with_the_plan_members():
  groups = make_groups(10)
  plan, batches = start(groups)
  seen = list(batches)
  assert [step for step, _ in seen] == list(range(7))
  for step, batch in seen:
    assert batch.tokens.shape == (1, plan.shape.rows, plan.shape.row_length)
    # weight n + 1 names group n.
    assert (batch.weight[0] - 1 == plan.order[step]).all()


def test_resume_continues_with_the_identical_batch():
  groups = make_groups(10)
  _, batches = start(groups)
  for _ in range(3):
    next(batches)
  state = json.loads(json.dumps(batches.get_state()))
  assert list(state.values()) == [3]
  expected = next(batches)
  _, again = start(groups)
  again.set_state(state)
  step, batch = next(again)
  assert step == expected[0] == 3 and same(batch, expected[1])


def test_a_position_fits_any_number_of_devices():
  """Rows are laid out for the devices; who comes at which step is not."""
  groups, seen, position = make_groups(10), {}, None
  for devices in (1, 2, 4):
    plan = planning.plan(
      planning.group_lengths(groups),
      prompts=4,
      row_length=48,
      steps=7,
      row_multiple=devices,
    )
    assert plan.shape.rows % devices == 0
    batches = loader.make_loader(groups, plan, Feedback.ORDER)
    if position is None:
      for _ in range(3):
        next(batches)
      position = json.loads(json.dumps(batches.get_state()))
    batches.set_state(position)
    step, batch = next(batches)
    assert step == 3
    seen[devices] = [
      np.asarray(getattr(batch, name)).reshape(4, -1)
      for name in ("weight", "feedback", "completion_mask", "ended")
    ]
  assert list(position.values()) == [3]
  for devices in (2, 4):
    for a, b in zip(seen[1], seen[devices], strict=True):
      np.testing.assert_array_equal(a, b)


def test_two_loaders_agree():
  groups = make_groups(10)
  for (_, one), (_, other) in zip(start(groups)[1], start(groups)[1]):
    assert same(one, other)


def test_in_order_covers_every_group_once_in_one_shape():
  groups = make_groups(10)
  seen = list(
    loader.batches_in_order(groups, Feedback.ORDER, prompts=4, row_length=32)
  )
  assert np.concatenate([i for i, _ in seen]).tolist() == [*range(10), -1, -1]
  weights = np.concatenate([batch.weight[0] for _, batch in seen])
  assert weights.tolist() == [*range(1, 11), 0, 0]
  assert len({batch.tokens.shape for _, batch in seen}) == 1
  assert not seen[-1][1].present[0, 2:].any()


def test_a_balanced_order_covers_every_group_once_too():
  groups = make_groups(10)
  order = planning.balanced_order(planning.group_lengths(groups), 4)
  assert sorted(order) == list(range(10))
  seen = loader.batches_in_order(
    groups, Feedback.ORDER, prompts=4, row_length=32, order=order
  )
  assert np.concatenate([i for i, _ in seen])[:10].tolist() == order.tolist()


def test_a_group_too_long_is_refused_before_the_first_batch():
  with pytest.raises(XpoError, match=r"file:\d+: .*a row holds 6"):
    loader.batches_in_order(
      make_groups(10), Feedback.ORDER, prompts=4, row_length=6
    )
