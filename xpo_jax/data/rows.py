"""Which row holds which group: 2-D bin packing of (slots, targets).

Every function takes a leading axis of independent problems, and the answer of
one problem never depends on the others, so that a plan over all batches and
the packing of a single batch agree.
"""

import numpy as np

_REPAIRS = 250


def split(lengths, row_length: int, targets: int):
  """Cuts groups that are too long for one row into pieces, by completions.

  A piece is the prompt and as many of the next completions as fit; a single
  completion that is too long even alone makes a piece that is too long.

  Args:
    lengths: int [..., 1 + K] tokens of the prompt and of every completion, 0
      for an absent completion.
    row_length: most slots a piece.
    targets: most completion tokens a piece.

  Returns:
    piece: int [..., K] the piece that completion k goes to, from 0.
    cost: int [..., K, 2] (slots, targets) of every piece, 0 for none.
  """
  prompt = lengths[..., 0]
  completions = lengths[..., 1:]
  piece = np.zeros(completions.shape, np.int64)
  cost = np.zeros((*completions.shape, 2), np.int64)
  cost[..., 0, 0] = prompt
  number = np.zeros(prompt.shape, np.int64)
  used = np.zeros(prompt.shape, np.int64)
  for k in range(completions.shape[-1]):
    own = completions[..., k]
    over = (prompt + used + own > row_length) | (used + own > targets)
    opens = over & (used > 0) & (own > 0)
    number = number + opens
    used = np.where(opens, own, used + own)
    piece[..., k] = number
    here = number[..., None]
    np.put_along_axis(cost[..., 0], here, (prompt + used)[..., None], -1)
    np.put_along_axis(cost[..., 1], here, used[..., None], -1)
  return piece, cost


def assign(items, rows: int, row_length: int, targets: int):
  """Puts items into rows so that no row exceeds either limit.

  Longest first onto the least filled row, then, where a row overflows, the
  best single swap or move between the fullest row and the rest, repeated.

  Args:
    items: int [P, N, 2] (slots, targets) of N items in P problems; (0, 0) is
      no item.
    rows: rows of each problem.
    row_length: most slots a row.
    targets: most targets a row.

  Returns:
    row: int [P, N].
    packed: bool [P] whether a packing was found; `row` is void where not.
  """
  fill = items / np.array([row_length, targets], np.float64)
  row, loads = _longest_first(fill, rows)
  packed = loads.max((1, 2)) <= 1
  # More than all rows hold: no repair can help.
  hopeless = (fill.sum(1) > rows + 1e-6).any(-1) | (fill > 1).any((1, 2))
  for p in np.flatnonzero(~packed & ~hopeless):
    row[p], packed[p] = _repair(fill[p], row[p], rows)
  # Sums of fractions round; whole numbers decide.
  limits = np.array([row_length, targets])
  loads = np.zeros((len(items), rows, 2), np.int64)
  np.add.at(loads, (np.arange(len(items))[:, None], row), items)
  return row, packed & (loads <= limits).all((1, 2))


def _longest_first(fill, rows):
  problems, number, _ = fill.shape
  longest = fill.any(-1).sum(1).max(initial=0)
  order = np.argsort(-fill.max(-1), axis=1, kind="stable")
  each = np.arange(problems)
  row = np.zeros((problems, number), np.int64)
  loads = np.zeros((problems, rows, 2))
  for n in range(longest):
    pick = order[:, n]
    item = fill[each, pick]
    after = loads + item[:, None]
    best = after.max(-1).argmin(1)
    row[each, pick] = best
    loads[each, best] += item
  return row, loads


def _energy(load):
  """sum(load ** 24): near the maximum, yet it tells ties apart."""
  eighth = load * load
  eighth *= eighth
  eighth *= eighth
  return (eighth * eighth * eighth).sum(-1)


def _repair(fill, row, rows):
  """Swaps and moves until no row overflows; (row, whether that worked)."""
  real = np.flatnonzero(fill.any(-1))
  # One empty item a row turns a move into a swap with nothing.
  items = np.concatenate([fill[real], np.zeros((rows, 2))])
  home = np.concatenate([row[real], np.arange(rows)])
  loads = np.zeros((rows, 2))
  np.add.at(loads, home, items)
  noise = np.random.default_rng(len(real))
  for _ in range(_REPAIRS):
    if loads.max() <= 1 + 1e-9:
      row = row.copy()
      row[real] = home[: len(real)]
      return row, True
    if not _best_swap(items, home, loads):
      _random_swap(items, home, loads, noise)
  return row, False


def _best_swap(items, home, loads):
  """Makes the swap that lowers the energy most; False if none does."""
  energy = _energy(loads)
  full = energy.argmax()
  mine = np.flatnonzero(home == full)
  theirs = np.flatnonzero(home != full)
  moved = items[mine][:, None] - items[theirs][None]
  other = home[theirs]
  after = _energy(loads[full] - moved) + _energy(loads[other] + moved)
  gain = energy[full] + energy[other] - after
  i, j = np.unravel_index(gain.argmax(), gain.shape)
  if gain[i, j] <= 1e-12:
    return False
  _swap(items, home, loads, mine[i], theirs[j])
  return True


def _random_swap(items, home, loads, noise):
  """Leaves a dead end: two random items change places, one from the top."""
  mine = np.flatnonzero(home == _energy(loads).argmax())
  theirs = np.flatnonzero(home != home[mine[0]])
  if len(theirs):
    _swap(items, home, loads, noise.choice(mine), noise.choice(theirs))


def _swap(items, home, loads, i, j):
  moved = items[i] - items[j]
  loads[home[i]] -= moved
  loads[home[j]] += moved
  home[i], home[j] = home[j], home[i]
