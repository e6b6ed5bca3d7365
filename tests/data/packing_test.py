"""Packed rows hold exactly the groups, and little else."""

import numpy as np
import pytest

from xpo_jax.data import packing, planning, rows
from xpo_jax.data.records import TokenGroup
from xpo_jax.errors import Exit, XpoError
from xpo_jax.types import Feedback

SHAPE = planning.Shape(
  prompts=2, completions=2, tokens=3, rows=1, row_length=12, targets=8
)


def group(name, prompt, *completions, **fields):
  """A TokenGroup; prompt and completions are lists of token ids."""
  return TokenGroup(
    id=name,
    cluster="",
    prompt=np.array(prompt, np.int32),
    completions=tuple(np.array(c, np.int32) for c in completions),
    ended=fields.pop("ended", tuple(len(c) % 2 == 0 for c in completions)),
    feedback=tuple(float(k) - 0.5 for k in range(len(completions))),
    kind=Feedback.SCORE,
    **fields,
  )


def random_groups(seed, number, completions=3, longest=9):
  """Groups of random lengths whose tokens are all different."""
  noise = np.random.default_rng(seed)
  token = iter(range(1, 10**6))
  take = lambda: [next(token) for _ in range(noise.integers(1, longest + 1))]
  return [
    group(
      f"file:{n + 1}",
      take(),
      *[take() for _ in range(noise.integers(1, completions + 1))],
      weight=1.0 + n % 3,
    )
    for n in range(number)
  ]


def seen_by(batch, row, place):
  """Tokens that the state at a place may attend to, itself last.

  Written out from the definition of `Batch`: the same group, the prompt or the
  own branch, not later in position.
  """
  number, branch = batch.group[row], batch.branch[row]
  own = (branch == 0) | (branch == branch[place])
  before = batch.positions[row] <= batch.positions[row, place]
  visible = np.flatnonzero((number == number[place]) & own & before)
  by_position = visible[np.argsort(batch.positions[row, visible])]
  assert list(batch.positions[row, by_position]) == list(range(len(visible)))
  return list(batch.tokens[row, by_position])


def contexts(batch, shape):
  """(b, k, t) -> (tokens before the target, the target), from the arrays."""
  found = {}
  padding = shape.prompts * shape.completions * shape.tokens
  for row, column in zip(*np.nonzero(batch.target_slot != padding)):
    at = (row, column)
    bk, t = divmod(int(batch.target_slot[at]), shape.tokens)
    key = (*divmod(bk, shape.completions), t)
    assert key not in found
    target = int(batch.target_token[at])
    before = seen_by(batch, row, batch.target_place[at])
    assert seen_by(batch, row, batch.token_place[at]) == before + [target]
    found[key] = before, target
  return found


def expected_contexts(groups):
  return {
    (b, k, t): ([*group.prompt, *completion[:t]], int(token))
    for b, group in enumerate(groups)
    for k, completion in enumerate(group.completions)
    for t, token in enumerate(completion)
  }


def scatter(batch, shape):
  size = shape.prompts * shape.completions * shape.tokens
  flat = np.zeros(size + 1, np.int64)
  flat[batch.target_slot.ravel()] = batch.target_token.ravel()
  return flat[:-1].reshape(shape.prompts, shape.completions, shape.tokens)


def shape_for(groups, row_length, prompts):
  return planning.plan_in_order(
    planning.group_lengths(groups), prompts=prompts, row_length=row_length
  ).shape


def test_two_groups_in_one_row_spelled_out():
  batch = packing.pack(
    [group("a:1", [7, 8], [3], [4, 5, 6]), group("a:2", [9], [2])],
    SHAPE,
    Feedback.SCORE,
  )
  assert batch.tokens.tolist() == [[7, 8, 3, 4, 5, 6, 9, 2, 0, 0, 0, 0]]
  assert batch.positions.tolist() == [[0, 1, 2, 2, 3, 4, 0, 1, 0, 0, 0, 0]]
  assert batch.group.tolist() == [[1, 1, 1, 1, 1, 1, 2, 2, 0, 0, 0, 0]]
  assert batch.branch.tolist() == [[0, 0, 1, 2, 2, 2, 0, 1, 0, 0, 0, 0]]
  assert batch.target_token.tolist() == [[3, 4, 5, 6, 2, 0, 0, 0]]
  assert batch.target_place.tolist() == [[1, 1, 3, 4, 6, 0, 0, 0]]
  assert batch.token_place.tolist() == [[2, 3, 4, 5, 7, 0, 0, 0]]
  assert batch.target_slot.tolist() == [[0, 3, 4, 5, 6, 12, 12, 12]]
  assert batch.completion_mask.sum(-1).tolist() == [[1, 3], [1, 0]]
  assert batch.present.tolist() == [[True, True], [True, False]]
  assert batch.feedback.tolist() == [[-0.5, 0.5], [-0.5, 0.0]]
  assert batch.weight.tolist() == [1.0, 1.0]
  assert batch.feedback_kind is Feedback.SCORE


@pytest.mark.parametrize("seed", range(6))
def test_every_target_sees_its_prompt_and_its_own_branch_only(seed):
  groups = random_groups(seed, number=9)
  shape = shape_for(groups, row_length=48, prompts=9)
  batch = packing.pack(groups, shape, Feedback.SCORE)
  assert contexts(batch, shape) == expected_contexts(groups)
  assert (batch.group > 0).sum() == sum(
    packing.group_cost(g)[0] for g in groups
  )


@pytest.mark.parametrize("seed", range(6))
def test_groups_longer_than_a_row_span_rows(seed):
  groups = random_groups(seed, number=6, completions=6)
  shape = shape_for(groups, row_length=20, prompts=6)
  batch = packing.pack(groups, shape, Feedback.SCORE)
  assert max(packing.group_cost(g)[0] for g in groups) > shape.row_length
  assert contexts(batch, shape) == expected_contexts(groups)


def test_a_group_with_too_many_targets_is_split():
  one = group("a:1", [1, 2], [3, 4, 5], [6, 7, 8], [9, 10])
  shape = planning.Shape(1, 3, 3, rows=2, row_length=30, targets=5)
  batch = packing.pack([one], shape, Feedback.SCORE)
  assert contexts(batch, shape) == expected_contexts([one])
  assert sorted((batch.target_slot < 9).sum(1)) == [3, 5]
  piece, cost = rows.split(np.array([2, 3, 3, 2]), 30, 5)
  assert piece.tolist() == [0, 1, 1]
  assert cost.tolist() == [[5, 3], [7, 5], [0, 0]]


def test_two_pieces_of_a_group_in_one_row_do_not_see_each_other():
  one = group("a:1", [1], [2, 3], list(range(10, 19)), [4, 5])
  shape = planning.Shape(1, 3, 9, rows=2, row_length=11, targets=9)
  batch = packing.pack([one], shape, Feedback.SCORE)
  numbers = sorted(sorted(set(row) - {0}) for row in batch.group.tolist())
  assert numbers == [[1], [1, 2]]
  assert contexts(batch, shape) == expected_contexts([one])


def test_target_slot_scatters_the_tokens_to_their_places():
  groups = random_groups(3, number=5)
  shape = shape_for(groups, row_length=40, prompts=5)
  batch = packing.pack(groups, shape, Feedback.SCORE)
  tokens = scatter(batch, shape)
  for b, one in enumerate(groups):
    for k, completion in enumerate(one.completions):
      assert tokens[b, k, : len(completion)].tolist() == completion.tolist()
  assert ((tokens > 0) == batch.completion_mask).all()
  assert batch.ended[:, 0].tolist() == [
    len(g.completions[0]) % 2 == 0 for g in groups
  ]


def test_empty_slots_weigh_nothing_and_hold_nothing():
  groups = [group("a:1", [1], [2], weight=3.0)]
  batch = packing.pack(groups, SHAPE, Feedback.SCORE)
  assert batch.weight.tolist() == [3.0, 0.0]
  assert not batch.present[1].any() and not batch.completion_mask[1].any()
  assert (batch.target_slot < 12).sum() == 1


def test_uncounted_completions_are_scored_all_the_same():
  one = group("a:1", [1], [2, 3], [4], counted=(True, False))
  batch = packing.pack([one], SHAPE, Feedback.BINARY)
  assert batch.present[0].all()
  assert batch.completion_mask[0].sum(-1).tolist() == [2, 1]


def test_columns_and_trunk_land_on_their_tokens():
  groups = random_groups(5, number=6, completions=5)
  shape = shape_for(groups, row_length=26, prompts=6)
  tokens = lambda g: np.concatenate([g.prompt, *g.completions])
  batch = packing.pack(
    groups,
    shape,
    Feedback.SCORE,
    columns={"reference_logps": lambda g: [-0.5 * c for c in g.completions]},
    trunk=lambda g: np.stack([tokens(g), 2 * tokens(g)], -1),
  )
  column = batch.columns["reference_logps"]
  assert column.dtype == np.float32
  assert (column == -0.5 * scatter(batch, shape)).all()
  assert batch.trunk.shape == (shape.rows, shape.row_length, 2)
  assert (batch.trunk[..., 0] == batch.tokens).all()
  assert (batch.trunk[..., 1] == 2 * batch.tokens).all()


@pytest.mark.parametrize(
  "one, message",
  [
    (group("f:3", [1] * 11, [2, 3]), "f:3: .* 13 tokens, a row holds 12"),
    (group("f:4", [], [2]), "f:4: empty prompt"),
    (group("f:5", [1], [2] * 4), "f:5: completion of 4 tokens.* holds 3"),
    (group("f:6", [1], [2], [3], [4]), "f:6: 3 completions.* holds 2"),
  ],
)
def test_a_group_that_does_not_fit_is_named(one, message):
  with pytest.raises(XpoError, match=message) as caught:
    packing.pack([one], SHAPE, Feedback.SCORE)
  assert caught.value.code is Exit.DATA


def test_columns_of_other_data_are_refused():
  one = group("f:7", [1], [2, 3])
  with pytest.raises(XpoError, match="f:7: column c has 1 numbers"):
    packing.pack([one], SHAPE, Feedback.SCORE, columns={"c": lambda g: [[0.0]]})
  with pytest.raises(XpoError, match="f:7: 2 cached trunk states for 3"):
    packing.pack([one], SHAPE, Feedback.SCORE, trunk=lambda g: np.ones((2, 4)))


def test_more_slots_than_the_rows_hold_is_an_error():
  full = [group(f"a:{n}", [1] * 4, [2, 3, 4]) for n in range(2)]
  with pytest.raises(XpoError, match="14 slots of 2 prompts"):
    packing.pack(full, SHAPE, Feedback.SCORE)


def test_microbatches_hold_the_same_prompts_in_the_same_order():
  groups = random_groups(1, number=40)
  lengths = planning.group_lengths(groups)
  batches = {}
  for n in (1, 4):
    plan = planning.plan(
      lengths, prompts=16, row_length=64, steps=3, microbatches=n, seed=5
    )
    batch = packing.pack_step(groups, plan, 1, Feedback.SCORE)
    assert batch.tokens.shape[0] == n and batch.weight.shape == (n, 16 // n)
    batches[n] = [
      np.concatenate([scatter(part(batch, i), plan.shape) for i in range(n)]),
      *(
        getattr(batch, name).reshape(16, *getattr(batch, name).shape[2:])
        for name in ("completion_mask", "present", "feedback", "weight")
      ),
    ]
  for one, four in zip(batches[1], batches[4]):
    assert (one == four).all()


def part(batch, index):
  return batch.replace(
    target_slot=batch.target_slot[index],
    target_token=batch.target_token[index],
  )


def test_every_batch_of_a_plan_packs():
  groups = random_groups(2, number=50, completions=4)
  plan = planning.plan(
    planning.group_lengths(groups),
    prompts=8,
    row_length=36,
    steps=20,
    microbatches=2,
    row_multiple=4,
  )
  assert plan.shape.rows % 4 == 0 and plan.shape.row_length <= 36
  for step in range(20):
    batch = packing.pack_step(groups, plan, step, Feedback.SCORE)
    for n, members in enumerate(plan.order[step].reshape(2, 4)):
      own = [groups[i] for i in members]
      scored = batch.target_slot[n] < np.prod(batch.completion_mask.shape[1:])
      assert scored.sum() == sum(packing.group_cost(g)[1] for g in own)


def test_unpack_undoes_what_pack_lays_out():
  groups = random_groups(6, number=7, completions=3)
  longest = max(packing.group_cost(g)[0] for g in groups)
  shape = shape_for(groups, row_length=2 * longest, prompts=7)
  tokens = lambda g: np.concatenate([g.prompt, *g.completions])
  own = {g.id: np.stack([tokens(g), 2 * tokens(g)], -1) for g in groups}
  some = [*groups[:3], None, *groups[4:]]
  batch = packing.pack(some, shape, Feedback.SCORE, trunk=lambda g: own[g.id])
  found = packing.unpack(some, shape, batch.trunk)
  assert found[3] is None
  for g, values in zip(some, found, strict=True):
    if g is not None:
      np.testing.assert_array_equal(values, own[g.id])


def test_a_group_that_is_split_over_rows_is_not_unpacked():
  one = group("f:8", [1, 2], [3] * 8, [4] * 8)
  shape = shape_for([one], row_length=12, prompts=1)
  with pytest.raises(ValueError, match="f:8: split"):
    packing.unpack([one], shape, np.zeros((shape.rows, shape.row_length, 1)))
