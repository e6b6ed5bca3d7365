"""Groups of tokens -> Batch: rows that hold every prompt once.

A row holds whole groups: a prompt (branch 0), then its completions side by
side (branches 1..K), each continuing the prompt's positions. Only a group too
long for a row is split by completions; its prompt is then repeated.
"""

from collections.abc import Callable, Sequence

import numpy as np

from xpo_jax.data import planning
from xpo_jax.data import rows as rows_lib
from xpo_jax.data.planning import Plan, Shape
from xpo_jax.data.records import TokenGroup
from xpo_jax.errors import data_error
from xpo_jax.types import Batch, Feedback

Column = Callable[[TokenGroup], Sequence[np.ndarray]]
Trunk = Callable[[TokenGroup], np.ndarray]

_ROW_FIELDS = ("tokens", "positions", "group", "branch")
_TARGET_FIELDS = ("target_token", "target_place", "token_place", "target_slot")


def group_cost(group: TokenGroup) -> tuple[int, int]:
  """(slots, targets) of one group; every completion token is a target."""
  targets = sum(len(completion) for completion in group.completions)
  return len(group.prompt) + targets, targets


def pack(
  groups: Sequence[TokenGroup | None],
  shape: Shape,
  feedback_kind: Feedback,
  *,
  columns: dict[str, Column] | None = None,
  trunk: Trunk | None = None,
) -> Batch:
  """Packs one microbatch; groups keep their order along B.

  Args:
    groups: at most B groups; None, or none at all, is an empty slot.
    shape: B, K, T, R, L and M; `planning.plan` finds one that fits.
    feedback_kind: what the groups' feedback means.
    columns: name -> function of a group that returns one number a token for
      every completion, as [n_k] arrays or rows of at least n_k; float32
      [B, K, T] in the batch, 0 elsewhere.
    trunk: function of a group that returns float32 [slots, D], the states of
      the prompt, completion 1, 2, ...; [R, L, D] in the batch.

  Returns:
    Batch of numpy arrays.

  Raises:
    XpoError: a group that exceeds the shape, an empty prompt, or groups that
      do not fit into the rows.
  """
  groups = [*groups, *[None] * (shape.prompts - len(groups))]
  if len(groups) > shape.prompts:
    raise data_error(
      f"batch: {len(groups)} groups do not fit into {shape.prompts} prompts; "
      "raise batch.prompts"
    )
  for group in groups:
    if group is not None:
      _check(group, shape)
  lengths = _lengths(groups, shape)
  arrays = _empty(shape)
  states = None
  used = np.zeros((shape.rows, 3), np.int64)
  for b, members, row in _pieces(groups, lengths, shape):
    group = groups[b]
    place = _place(arrays, group, b, members, row, used, shape)
    if trunk:
      own = _states_of(group, members, trunk(group))
      if states is None:
        size = (shape.rows, shape.row_length, own.shape[-1])
        states = np.zeros(size, np.float32)
      states[row, place] = own
  return Batch(
    **arrays,
    **_prompt_fields(groups, shape),
    columns={
      name: _column(name, get, groups, shape)
      for name, get in (columns or {}).items()
    },
    trunk=states,
    feedback_kind=feedback_kind,
  )


def unpack(
  groups: Sequence[TokenGroup | None], shape: Shape, values: np.ndarray
) -> list[np.ndarray | None]:
  """What `pack` has laid out as `trunk`, group by group.

  Args:
    groups: of one microbatch, each in one row whole.
    shape: that of `pack`.
    values: [R, L, ...].

  Returns:
    [slots, ...] of the prompt, completion 1, 2, ... for every group.
  """
  lengths = _lengths(groups, shape)
  found, used = [None] * len(groups), np.zeros(shape.rows, np.int64)
  for b, _, row in _pieces(groups, lengths, shape):
    if found[b] is not None:
      raise ValueError(f"{groups[b].id}: split over rows")
    end = used[row] + lengths[b].sum()
    found[b], used[row] = values[row, used[row] : end], end
  return found


def fits(groups: Sequence[TokenGroup | None], shape: Shape) -> bool:
  """Whether `pack` finds rows for groups that the shape's other sizes hold."""
  lengths = _lengths(groups, shape)
  limits = shape.row_length, shape.targets
  _, cost = rows_lib.split(lengths, *limits)
  _, packed = rows_lib.assign(cost.reshape(1, -1, 2), shape.rows, *limits)
  return bool(packed[0])


def carried(groups: Sequence[TokenGroup]) -> dict[str, Column]:
  """Lookups for `columns` of the numbers that the groups carry themselves."""
  look_up = lambda name: lambda group: group.columns[name]
  return {name: look_up(name) for name in groups[0].columns}


def pack_step(
  groups: Sequence[TokenGroup],
  plan: Plan,
  step: int,
  feedback_kind: Feedback,
  *,
  columns: dict[str, Column] | None = None,
  trunk: Trunk | None = None,
) -> Batch:
  """One step of a plan: its microbatches stacked on a leading axis, [n, ...].

  `target_slot` counts inside its own microbatch. Arguments as for `pack`.
  """
  parts = plan.order[step].reshape(plan.microbatches, -1)
  return stack(
    [
      pack(
        [groups[i] if i >= 0 else None for i in part],
        plan.shape,
        feedback_kind,
        columns=columns,
        trunk=trunk,
      )
      for part in parts
    ]
  )


def stack(batches: Sequence[Batch]) -> Batch:
  """Stacks equally shaped batches along a new leading axis."""
  first = batches[0]
  fields = {
    name: np.stack([getattr(b, name) for b in batches])
    for name in Batch.__dataclass_fields__
    if isinstance(getattr(first, name), np.ndarray)
  }
  columns = {
    name: np.stack([b.columns[name] for b in batches]) for name in first.columns
  }
  return first.replace(**fields, columns=columns)


def _lengths(groups, shape):
  """Tokens of the prompt and of every completion, int [B, 1 + K]."""
  lengths = np.zeros((shape.prompts, 1 + shape.completions), np.int64)
  for b, group in enumerate(groups):
    if group is not None:
      own = [len(group.prompt), *map(len, group.completions)]
      lengths[b, : len(own)] = own
  return lengths


def _check(group, shape):
  if not len(group.prompt):
    raise data_error(planning.empty_prompt(group.id))
  if len(group.completions) > shape.completions:
    raise data_error(
      f"{group.id}: {len(group.completions)} completions, the batch holds "
      f"{shape.completions}; plan with this group or drop the row"
    )
  longest = max(map(len, group.completions), default=0)
  if longest > min(shape.tokens, shape.targets):
    raise data_error(
      f"{group.id}: completion of {longest} tokens, the batch holds "
      f"{min(shape.tokens, shape.targets)}; lower data.max_completion_length"
    )
  need = len(group.prompt) + longest
  if need > shape.row_length:
    raise data_error(planning.too_long(group.id, need, shape.row_length))


def _pieces(groups, lengths, shape):
  """(b, completions, row) of every piece, in the order of the prompts."""
  limits = shape.row_length, shape.targets
  piece, cost = rows_lib.split(lengths, *limits)
  row, packed = rows_lib.assign(cost.reshape(1, -1, 2), shape.rows, *limits)
  if not packed[0]:
    raise data_error(
      f"batch: {cost.sum((0, 1))[0]} slots of {len(groups)} prompts do not fit "
      f"into {shape.rows} rows of {shape.row_length}; raise batch.row_length"
    )
  row = row.reshape(shape.prompts, -1)
  for b, group in enumerate(groups):
    if group is not None:
      own = piece[b, : len(group.completions)]
      for number in np.unique(own):
        yield b, np.flatnonzero(own == number), row[b, number]


def _empty(shape):
  """Fields with nothing in them yet; padding targets point past the end."""
  arrays = {
    name: np.zeros((shape.rows, shape.row_length), np.int32)
    for name in _ROW_FIELDS
  } | {
    name: np.zeros((shape.rows, shape.targets), np.int32)
    for name in _TARGET_FIELDS
  }
  arrays["target_slot"][:] = shape.prompts * shape.completions * shape.tokens
  return arrays


def _place(arrays, group, b, members, row, used, shape):
  """Writes a prompt and some of its completions behind what a row holds.

  `used` is int [R, 3], advanced here: slots, targets and groups of every row.
  Returns the slots' places in the row.
  """
  start, first, number = used[row]
  completions = [group.completions[k] for k in members]
  sizes = [len(completion) for completion in completions]
  before, total = len(group.prompt), sum(sizes)
  inside = _ranges(sizes)
  place = np.arange(start, start + before + total)
  for name, value in (
    ("tokens", np.concatenate([group.prompt, *completions])),
    ("positions", np.concatenate([np.arange(before), before + inside])),
    ("group", number + 1),
    ("branch", np.repeat([0, *(members + 1)], [before, *sizes])),
  ):
    arrays[name][row, place] = value
  # The prompt's last state predicts the first token of every completion.
  last = start + before - 1
  predictor = np.where(inside == 0, last, place[before:] - 1)
  slot = (b * shape.completions + members) * shape.tokens
  target = slice(first, first + total)
  for name, value in (
    ("target_token", np.concatenate(completions)),
    ("target_place", predictor),
    ("token_place", place[before:]),
    ("target_slot", np.repeat(slot, sizes) + inside),
  ):
    arrays[name][row, target] = value
  used[row] += before + total, total, 1
  return place


def _ranges(sizes):
  """0..n-1 for every n of `sizes`, joined."""
  ends = np.cumsum(sizes)
  return np.arange(sum(sizes)) - np.repeat(ends - sizes, sizes)


def _states_of(group, members, states):
  """States of a piece, picked out of those of its whole group."""
  sizes = [len(group.prompt), *map(len, group.completions)]
  if len(states) != sum(sizes):
    raise data_error(
      f"{group.id}: {len(states)} cached trunk states for {sum(sizes)} tokens; "
      "delete the cache folder, it belongs to other data"
    )
  owner = np.repeat(np.arange(len(sizes)), sizes)
  return states[np.isin(owner, [0, *(members + 1)])]


def _prompt_fields(groups, shape):
  sizes = shape.prompts, shape.completions
  length = np.zeros(sizes, np.int64)
  fields = dict(
    present=np.zeros(sizes, bool),
    ended=np.zeros(sizes, bool),
    feedback=np.zeros(sizes, np.float32),
    weight=np.zeros(shape.prompts, np.float32),
  )
  for b, group in enumerate(groups):
    if group is not None:
      own = slice(len(group.completions))
      length[b, own] = [len(completion) for completion in group.completions]
      fields["present"][b, own] = length[b, own] > 0
      fields["ended"][b, own] = group.ended
      fields["feedback"][b, own] = group.feedback
      fields["weight"][b] = group.weight
  mask = np.arange(shape.tokens) < length[..., None]
  return dict(completion_mask=mask, **fields)


def _column(name, get, groups, shape):
  """Numbers of every completion token, float32 [B, K, T]."""
  sizes = shape.prompts, shape.completions, shape.tokens
  column = np.zeros(sizes, np.float32)
  for b, group in enumerate(groups):
    for k, values in enumerate(() if group is None else get(group)):
      size = len(group.completions[k]) if k < len(group.completions) else 0
      if len(values) < size:
        raise data_error(
          f"{group.id}: column {name} has {len(values)} numbers for a "
          f"completion of {size} tokens; delete the cache folder, it belongs "
          "to other data"
        )
      column[b, k, :size] = values[:size]
  return column
