"""Batches in the order of a plan, built ahead of the step by threads.

The iterators are grain's: `get_state()` is a JSON-able dict that holds one
number, the next step, and `set_state()` continues there exactly, because every
batch is a pure function of the plan and its step.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from xpo_jax.data import packing, planning
from xpo_jax.data.planning import Plan
from xpo_jax.data.records import TokenGroup
from xpo_jax.types import Batch, Feedback


def make_loader(
  groups: Sequence[TokenGroup],
  plan: Plan,
  feedback_kind: Feedback,
  *,
  columns: dict[str, packing.Column] | None = None,
  trunk: packing.Trunk | None = None,
  threads: int = 1,
  ahead: int = 2,
) -> grain.DatasetIterator:
  """Iterates over (step, Batch) for every step of the plan.

  Args:
    groups: what the plan's indices mean.
    plan: from `planning.plan`.
    feedback_kind: what the groups' feedback means.
    columns: see `packing.pack`; called from the threads.
    trunk: see `packing.pack`; called from the threads.
    threads: that build batches.
    ahead: batches ready before they are asked for.

  Returns:
    grain iterator over (int, Batch of arrays [microbatches, ...]).
  """

  build = lambda step: packing.pack_step(
    groups, plan, step, feedback_kind, columns=columns, trunk=trunk
  )
  return iterate(build, len(plan.order), threads=threads, ahead=ahead)


def iterate(
  build: Callable[[int], Any], steps: int, *, threads: int = 1, ahead: int = 2
) -> grain.DatasetIterator:
  """Iterates over (step, build(step)); `build` is called from the threads."""
  numbered = grain.MapDataset.range(steps).map(lambda n: (n, build(n)))
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
  return iter(numbered.to_iter_dataset(options))


def batches_in_order(
  groups: Sequence[TokenGroup],
  feedback_kind: Feedback,
  *,
  prompts: int,
  row_length: int,
  row_multiple: int = 1,
  order: Sequence[int] | None = None,
  columns: dict[str, packing.Column] | None = None,
  trunk: packing.Trunk | None = None,
) -> Iterator[tuple[np.ndarray, Batch]]:
  """Every group exactly once, in one static shape: for evaluation and caches.

  Args:
    groups: of which batch i holds places i * prompts and on of `order`.
    feedback_kind: what the groups' feedback means.
    prompts: prompts a batch.
    row_length: most slots a row.
    row_multiple: R is a multiple of this.
    order: indices of the groups; as given if None. The order of
      `planning.balanced_order` pads least.
    columns: see `packing.pack`.
    trunk: see `packing.pack`.

  Returns:
    iterator over
    index: int32 [B] the group in every slot, -1 for an empty one (weight 0).
    batch: Batch of arrays [1, ...].
  """
  plan = planning.plan_in_order(
    planning.group_lengths(groups),
    prompts=prompts,
    row_length=row_length,
    row_multiple=row_multiple,
    order=order,
    ids=[group.id for group in groups],
  )
  loader = make_loader(
    groups, plan, feedback_kind, columns=columns, trunk=trunk
  )
  return ((plan.order[step], batch) for step, batch in loader)
