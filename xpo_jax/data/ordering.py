"""The order of the prompts: a seeded shuffle whose batches weigh the same.

The endless stream of prompts is one shuffle of all groups after the other
(one an epoch); batch t is its places [t B, (t + 1) B). So every group comes
once an epoch, none is lost when B does not divide N, and the position in the
data is the step alone. Inside an epoch, groups change places until every batch
has nearly the same number of slots AND of targets; inside a batch the order is
such that halves, quarters, ... (hence the microbatches of any power of two)
are balanced too. Nothing here knows of rows or microbatches.
"""

import numpy as np

_PASSES = 60
_ENOUGH = 2e-3  # of a batch's mean cost


def stream(cost, prompts: int, steps: int, seed: int):
  """The members of every batch.

  Args:
    cost: [N, 2] (slots, targets) of each group.
    prompts: B, groups a batch.
    steps: batches wanted. More of them never change the earlier ones.
    seed: of the shuffles.

  Returns:
    int32 [steps, B] indices into the groups.
  """
  total = steps * prompts
  cost = np.asarray(cost, np.float64)
  cost = cost / np.maximum(cost.mean(0), 1)
  epochs = []
  for epoch in range(-(-total // len(cost))):
    noise = np.random.default_rng([seed, epoch])
    sizes = _parts(epoch * len(cost), len(cost), prompts)
    epochs.append(balanced(cost, sizes, noise))
  order = np.concatenate(epochs)[:total].reshape(steps, prompts)
  return _halves(order, cost).astype(np.int32)


def _parts(start: int, number: int, prompts: int):
  """Sizes of the pieces into which batch borders cut [start, +number)."""
  first = -(-start // prompts) * prompts
  borders = np.arange(first, start + number, prompts)
  borders = np.unique(np.concatenate([[start], borders, [start + number]]))
  return np.diff(borders)


def balanced(cost, sizes, noise):
  """A random permutation cut into `sizes` whose pieces cost nearly the same.

  Pieces are paired, and each pair makes the one swap that brings both nearest
  to their share of the total; repeated with ever new pairs.

  Args:
    cost: float [N, 2], mean 1 in both columns.
    sizes: int [F], their sum is N.
    noise: numpy Generator.

  Returns:
    int [N]: piece after piece.
  """
  width = sizes.max()
  real = np.arange(width) < sizes[:, None]
  grid = np.full(real.shape, -1)
  grid[real] = noise.permutation(len(cost))
  # An absent place costs the mean, so that all pieces share one goal.
  weight = np.where(real[..., None], cost[grid] - cost.mean(0), 0.0)
  excess = weight.sum(1)
  for turn in range(_PASSES):
    if len(sizes) < 2 or np.abs(excess).max() <= _ENOUGH * width:
      break
    left, right = _pairs(excess, turn, noise)
    shift = (np.arange(width) + noise.integers(width)) % width
    moved = weight[left] - weight[right][:, shift]
    after = excess[left][:, None] - moved, excess[right][:, None] + moved
    after = (after[0] ** 2).sum(-1) + (after[1] ** 2).sum(-1)
    after[~(real[left] & real[right][:, shift])] = np.inf
    place = after.argmin(1)
    each = np.arange(len(left))
    before = (excess[left] ** 2 + excess[right] ** 2).sum(-1)
    good = after[each, place] < before
    left, right, here = left[good], right[good], place[good]
    there = shift[here]
    moved = moved[each[good], here]
    excess[left] -= moved
    excess[right] += moved
    for array in (grid, weight):
      kept = array[left, here].copy()
      array[left, here] = array[right, there]
      array[right, there] = kept
  return grid[real]


def _pairs(excess, turn, noise):
  """Heaviest with lightest along either column, or at random."""
  number = len(excess)
  kind = turn % 3
  rank = noise.permutation(number)
  if kind < 2:
    rank = rank[np.argsort(excess[rank, kind], kind="stable")]
  half = number // 2
  return rank[:half], rank[::-1][:half]


def _halves(order, cost):
  """Reorders each row so that halves, quarters, ... cost nearly the same."""
  steps, width = order.shape
  while width % 2 == 0:
    parts = order.reshape(-1, width)
    order = _halve(parts, cost[parts]).reshape(steps, -1)
    width //= 2
  return order


def _halve(parts, cost):
  """Pairs of like groups, one to each half, to the side that evens out."""
  rank = np.argsort(-cost.sum(-1), axis=1, kind="stable")
  each = np.arange(len(parts))[:, None]
  ranked = cost[each, rank]
  gap = np.zeros((len(parts), 2))
  to_left = np.zeros(parts.shape, bool)
  for n in range(0, parts.shape[1], 2):
    moved = ranked[:, n] - ranked[:, n + 1]
    first = ((gap + moved) ** 2).sum(-1) <= ((gap - moved) ** 2).sum(-1)
    gap += np.where(first[:, None], moved, -moved)
    to_left[each[:, 0], rank[:, n]] = first
    to_left[each[:, 0], rank[:, n + 1]] = ~first
  # The half that holds the shuffle's first group stays the first half.
  to_left ^= ~to_left[:, :1]
  place = np.argsort(~to_left, axis=1, kind="stable")
  return parts[each, place]
