"""Which prompts form which batch, and the static shape that holds them all.

All batches of a run are planned before the first step: the shape is searched
over every one of them with the very function that packs them later, so packing
cannot fail at run time.
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np

from xpo_jax.data import ordering
from xpo_jax.data import rows as rows_lib
from xpo_jax.errors import data_error, usage_error

# Row lengths tried: multiples of row_length / 16 (128 slots for 2048).
_FINENESS = 16
# Target limits tried: 1% apart.
_GROWTH = 1.01
_HARDEST = 48
_BLOCKS = (4, 16, 64, 256, 1024, 4096, 16384)


@dataclasses.dataclass(frozen=True)
class Shape:
  """The static sizes of one microbatch."""

  prompts: int  # B
  completions: int  # K
  tokens: int  # T, the longest completion
  rows: int  # R
  row_length: int  # L
  targets: int  # M


@dataclasses.dataclass(frozen=True)
class Plan:
  """The whole run: `order[step]` are the groups of that step's batch."""

  order: np.ndarray  # int32 [steps, n * B] of n microbatches; -1 = empty slot
  shape: Shape
  microbatches: int
  lengths: np.ndarray  # int32 [N, 1 + K] as `group_lengths` returns them


def group_lengths(groups) -> np.ndarray:
  """Tokens of the prompt and of every completion, int32 [N, 1 + K]."""
  completions = max((len(g.completions) for g in groups), default=0)
  lengths = np.zeros((len(groups), 1 + completions), np.int32)
  for n, group in enumerate(groups):
    lengths[n, 0] = len(group.prompt)
    for k, completion in enumerate(group.completions):
      lengths[n, 1 + k] = len(completion)
  return lengths


def costs(lengths) -> np.ndarray:
  """(slots, targets) of every group, int64 [N, 2]."""
  targets = lengths[:, 1:].sum(-1, dtype=np.int64)
  return np.stack([lengths[:, 0] + targets, targets], -1)


def steps_of(epochs: float, groups: int, prompts: int) -> int:
  """Steps that show every group `epochs` times, rounded up."""
  return max(1, math.ceil(epochs * groups / prompts - 1e-6))


def plan(
  lengths,
  *,
  prompts: int,
  row_length: int,
  steps: int,
  microbatches: int = 1,
  row_multiple: int = 1,
  seed: int = 0,
  ids: Sequence[str] = (),
) -> Plan:
  """Plans a training run.

  The members and their order depend on `lengths`, `prompts` and `seed` only
  (see ordering.py), so 1 x 32 and 4 x 8 microbatches see the same prompts in
  the same order; the other arguments decide how they are packed.

  Args:
    lengths: int [N, 1 + K] from `group_lengths`.
    prompts: prompts a step, over all microbatches.
    row_length: most slots a row; the plan may choose shorter rows where these
      leave fewer slots empty.
    steps: steps of the run.
    microbatches: equal parts that a step is computed in.
    row_multiple: R is a multiple of this (data x fsdp devices).
    seed: of the shuffles.
    ids: names of the groups for messages.

  Raises:
    XpoError: no groups, a split that leaves a rest, an empty prompt, or a
      completion that does not fit into a row even alone.
  """
  _check(lengths, prompts, microbatches, row_length, ids)
  order = ordering.stream(costs(lengths), prompts, steps, seed)
  return _finish(order, lengths, microbatches, row_length, row_multiple)


def plan_in_order(
  lengths,
  *,
  prompts: int,
  row_length: int,
  row_multiple: int = 1,
  order: Sequence[int] | None = None,
  ids: Sequence[str] = (),
) -> Plan:
  """Plans one pass over every group, as given or in `order`.

  The last batch is filled up with empty slots (-1). Arguments as for `plan`.
  """
  _check(lengths, prompts, 1, row_length, ids)
  order = np.arange(len(lengths)) if order is None else np.asarray(order)
  steps = -(-len(order) // prompts)
  padded = np.full(steps * prompts, -1, np.int32)
  padded[: len(order)] = order
  padded = padded.reshape(steps, prompts)
  return _finish(padded, lengths, 1, row_length, row_multiple)


def balanced_order(lengths, prompts: int, seed: int = 0) -> np.ndarray:
  """An order for `plan_in_order` whose batches weigh the same, int [N]."""
  cost = costs(lengths) / np.maximum(costs(lengths).mean(0), 1)
  sizes = np.diff(np.append(np.arange(0, len(cost), prompts), len(cost)))
  return ordering.balanced(cost, sizes, np.random.default_rng(seed))


def padding_report(plan: Plan) -> dict[str, float]:
  """Slots computed against slots needed, per step, averaged over the plan.

  `trunk_ratio` = R L / every token once; `head_ratio` = R M / scored tokens;
  both are 1 without padding. `trunk_slots` and `head_slots` are exact.
  """
  shape, n = plan.shape, plan.microbatches
  members = plan.order[plan.order >= 0]
  used = costs(plan.lengths)[members].sum(0) / len(plan.order)
  parts = plan.order.reshape(-1, shape.prompts)
  pieces = _items(_parts(plan.lengths, parts), shape.row_length, shape.targets)
  placed = pieces[..., 0].sum() / len(plan.order)
  trunk = n * shape.rows * shape.row_length
  head = n * shape.rows * shape.targets
  return dict(
    trunk_slots=trunk,
    placed_slots=float(placed),  # prompts of split groups counted again
    needed_slots=float(used[0]),
    trunk_ratio=float(trunk / used[0]),
    head_slots=head,
    scored_tokens=float(used[1]),
    head_ratio=float(head / max(used[1], 1)),
  )


def _check(lengths, prompts, microbatches, row_length, ids):
  if not len(lengths):
    raise data_error("data: 0 groups are left to train on; see the accounting")
  if prompts % microbatches:
    raise usage_error(
      f"batch.microbatches: {microbatches} does not divide batch.prompts "
      f"{prompts}; choose a divisor"
    )
  name = lambda n: ids[n] if len(ids) else f"group {n}"
  if not lengths[:, 0].all():
    raise data_error(empty_prompt(name(int(lengths[:, 0].argmin()))))
  need = lengths[:, 0] + lengths[:, 1:].max(-1)
  worst = int(need.argmax())
  if need[worst] > row_length:
    raise data_error(too_long(name(worst), int(need[worst]), row_length))


def empty_prompt(name: str) -> str:
  return (
    f"{name}: empty prompt, nothing predicts the first token; drop the row or "
    "use a template that begins with a token"
  )


def too_long(name: str, need: int, row_length: int) -> str:
  return (
    f"{name}: prompt and one completion take {need} tokens, a row holds "
    f"{row_length}; raise batch.row_length or lower data.max_prompt_length / "
    "data.max_completion_length"
  )


def _parts(lengths, order):
  """Lengths of every microbatch, [P, B, 1 + K]; empty slots are 0."""
  return np.where(order[..., None] >= 0, lengths[order], 0)


def _items(parts, row_length, targets):
  """Pieces of every microbatch as items for rows.assign, [P, B * K, 2]."""
  cost = rows_lib.split(parts, row_length, targets)[1]
  return cost.reshape(len(parts), cost.shape[1] * cost.shape[2], 2)


def _finish(order, lengths, microbatches, row_length, row_multiple):
  prompts = order.shape[1] // microbatches
  parts = _parts(lengths, order.reshape(-1, prompts))
  rows, length, targets = _search(parts, row_length, row_multiple)
  shape = Shape(
    prompts=prompts,
    completions=lengths.shape[1] - 1,
    tokens=max(1, int(lengths[:, 1:].max())),
    rows=rows,
    row_length=length,
    targets=targets,
  )
  return Plan(order, shape, microbatches, lengths)


def _search(parts, row_length, row_multiple):
  """The (R, L, M) of the fewest slots R L + R M that packs every part."""
  cost = costs(parts.reshape(-1, parts.shape[-1]))
  total = cost.reshape(len(parts), -1, 2).sum(1)
  hardest = np.argsort(-(total / total.max(0)).sum(-1), kind="stable")
  hardest = np.union1d(hardest[:_HARDEST], total.argmax(0))
  step = max(1, row_length // _FINENESS)
  single = (parts[..., 0] + parts[..., 1:].max(-1)).max()
  longest = parts[..., 1:].max()
  least = -(-total[:, 0].max() // row_length)
  rows = int(-(-least // row_multiple) * row_multiple)
  best, tried = None, 0
  while best is None or tried < 2:
    start = max(single, -(-total[:, 0].max() // rows))
    start = min(row_length, -(-start // step) * step)
    floor = max(int(longest), -(-int(total[:, 1].max()) // rows))
    for length in dict.fromkeys([*range(start, row_length, step), row_length]):
      if best and rows * (length + floor) >= best[0]:
        break
      targets = _least_targets(parts, hardest, rows, int(length), floor)
      if targets and (not best or rows * (length + targets) < best[0]):
        best = rows * (length + targets), rows, int(length), targets
    tried += best is not None
    rows += row_multiple
  return best[1:]


def _least_targets(parts, hardest, rows, length, floor):
  """The smallest M on a 1% grid from `floor` that packs; None if none does."""
  if not _packs(parts[hardest], rows, length, length):
    return None
  low, high = 0, math.ceil(math.log(max(length / floor, 1), _GROWTH))
  limit = lambda n: min(length, math.ceil(floor * _GROWTH**n))
  while low < high:
    middle = (low + high) // 2
    if _packs(parts[hardest], rows, length, limit(middle)):
      high = middle
    else:
      low = middle + 1
  slack = 1
  while not _packs(parts, rows, length, limit(high)):
    if limit(high) >= length:
      return None
    high += slack
    slack *= 2
  return limit(high)


def _packs(parts, rows, length, targets):
  """Whether every part packs; the blocks grow, so that a no comes early."""
  for block in np.split(parts, _BLOCKS):
    items = _items(block, length, targets)
    if not rows_lib.assign(items, rows, length, targets)[1].all():
      return False
  return True
