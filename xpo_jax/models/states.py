"""Frozen numbers of whole data sets, cached by content.

Trunk states (the output of the frozen first blocks) and reference log-probs are
computed once per group of data and kept under a key that hashes tokens,
weights, dtype and layout: changing any of them computes anew.
"""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import functools
import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from xpo_jax.models import cache, heads
from xpo_jax.models import model as lm
from xpo_jax.models.model import Model, Weights
from xpo_jax.models.transformer import Places
from xpo_jax.types import PyTree

CHUNK_ROWS = 4


def _read(tree: PyTree) -> PyTree:
  """Weights on the default device, read if they are still in their files."""
  return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), tree)


@dataclasses.dataclass(frozen=True)
class Devices:
  """Where numbers are computed: the default device, unless said otherwise.

  rows: computed at once. key: what the last bits depend on beside the device
  kind. use: a context for the computation. weights, batch: from the host to the
  devices. result: back, the whole on every process. agree: whether something
  holds on all processes.
  """

  rows: int = CHUNK_ROWS
  key: tuple = ()
  use: Callable = contextlib.nullcontext
  weights: Callable[[PyTree], PyTree] = _read
  batch: Callable[[PyTree], PyTree] = lambda tree: tree
  result: Callable[[jax.Array], np.ndarray] = np.asarray
  agree: Callable[[bool], bool] = bool


ONE = Devices()


def fingerprint(tree: PyTree) -> str:
  """SHA-256 over paths, dtypes, shapes and bytes of the leaves."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    leaf = np.ascontiguousarray(leaf)
    name = jax.tree_util.keystr(path)
    digest.update(f"{name}|{leaf.dtype}|{leaf.shape}|".encode())
    digest.update(leaf.view(np.uint8).data)
  return digest.hexdigest()


def base_fingerprint(trunk: PyTree, top: PyTree) -> str:
  """Of weights that training leaves as they were; "" if there are none."""
  return fingerprint((trunk, top))[:16] if trunk or top else ""


def tokens_fingerprint(groups: Sequence) -> str:
  """SHA-256 of the token ids of all groups, in order."""
  digest = hashlib.sha256()
  for group in groups:
    digest.update(np.int32(len(group.completions)).tobytes())
    for part in (group.prompt, *group.completions):
      digest.update(np.int32(len(part)).tobytes())
      digest.update(np.ascontiguousarray(part, np.int32).tobytes())
  return digest.hexdigest()


def group_slots(group) -> int:
  return len(group.prompt) + group_targets(group)


def group_targets(group) -> int:
  return sum(len(c) for c in group.completions)


def _rows(groups, row_length):
  """Longest first into rows, next fit: lists of (group index, offset)."""
  order = sorted(range(len(groups)), key=lambda i: -group_slots(groups[i]))
  rows, room = [], 0
  for i in order:
    size = group_slots(groups[i])
    if size > room:
      rows.append([])
      room = row_length
    rows[-1].append((i, row_length - room))
    room -= size
  return rows


def _lay_out(groups, rows, row_length, targets):
  """Arrays of rows in the order prompt, completion 1, completion 2, .."""
  shape = (len(rows), row_length)
  tokens, positions, group, branch = (
    np.zeros(shape, np.int32) for _ in range(4)
  )
  place, after, target = (
    np.zeros((len(rows), targets), np.int32) for _ in range(3)
  )
  for r, row in enumerate(rows):
    m = 0
    for number, (i, at) in enumerate(row, 1):
      g = groups[i]
      start = len(g.prompt)
      group[r, at : at + group_slots(g)] = number
      tokens[r, at : at + start] = g.prompt
      positions[r, at : at + start] = np.arange(start)
      before_first, at = at + start - 1, at + start
      for k, c in enumerate(g.completions, 1):
        n = len(c)
        tokens[r, at : at + n] = c
        branch[r, at : at + n] = k
        positions[r, at : at + n] = start + np.arange(n)
        if n:
          place[r, m] = before_first
          place[r, m + 1 : m + n] = np.arange(at, at + n - 1)
        after[r, m : m + n] = np.arange(at, at + n)
        target[r, m : m + n] = c
        m += n
        at += n
  return tokens, Places(positions, group, branch), place, after, target


@functools.partial(jax.jit, static_argnums=0)
def _row_states(model: Model, trunk, tokens, places):
  return lm.trunk_states(model, trunk, tokens, places)


@functools.partial(jax.jit, static_argnums=0)
def _row_logps(model: Model, weights, tokens, places, trunk, place, target):
  states = lm.hidden(model, weights, tokens, places, trunk)
  return lm.logps(model, weights, states, place, target)


@functools.partial(jax.jit, static_argnums=0)
def _row_rewards(model: Model, weights, head, tokens, places, trunk, at):
  states = lm.hidden(model, weights, tokens, places, trunk)
  return heads.reward(head, heads.gather(states, at))


def _row_length(groups) -> int:
  longest = max(group_slots(g) for g in groups)
  return max(256, -(-longest // 64) * 64)


def _batches(groups, row_length, count):
  """Yields (`count` row lists, the last ones empty; laid-out arrays)."""
  rows = _rows(groups, row_length)
  most = max(sum(group_targets(groups[i]) for i, _ in row) for row in rows)
  targets = -(-most // 64) * 64
  for start in range(0, len(rows), count):
    part = rows[start : start + count]
    part = part + [[]] * (count - len(part))
    yield part, _lay_out(groups, part, row_length, targets)


def _offsets(sizes) -> np.ndarray:
  return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def trunk_states(
  model: Model,
  trunk: PyTree,
  groups: Sequence,
  folder: Path,
  track: Callable = lambda it, total: it,
  devices: Devices = ONE,
) -> Callable:
  """A lookup group -> float32 [slots, D] (prompt, completion 1, ..)."""
  offsets = _offsets([group_slots(g) for g in groups])
  length = _row_length(groups)

  def fill(out):
    total = -(-len(_rows(groups, length)) // devices.rows)
    batches = _batches(groups, length, devices.rows)
    placed = devices.weights(trunk)
    for rows, (tokens, places, *_) in track(batches, total):
      tokens, places = devices.batch((tokens, places))
      with devices.use():
        states = _row_states(model, placed, tokens, places)
      states = devices.result(states)
      for r, row in enumerate(rows):
        for i, at in row:
          n = offsets[i + 1] - offsets[i]
          out[offsets[i] : offsets[i + 1]] = states[r, at : at + n]

  key = _key(model, trunk, groups, devices)
  shape = (int(offsets[-1]), model.config.width)
  array = cache.cached(folder, "trunk", key, shape, fill, devices.agree)
  number = _number(groups)

  def look_up(group):
    i, _ = number[id(group)]
    return array[offsets[i] : offsets[i + 1]]

  return look_up


def reference_logps(
  model: Model,
  weights: Weights,
  groups: Sequence,
  folder: Path,
  trunk: Callable | None = None,
  track: Callable = lambda it, total: it,
  devices: Devices = ONE,
) -> Callable:
  """A lookup group -> list over K of float32 [n_k] log-probs.

  `trunk` is the lookup of `trunk_states`, used instead of the frozen blocks.
  """

  def numbers(weights, tokens, places, states, place, at, target):
    return _row_logps(model, weights, tokens, places, states, place, target)

  place = devices.weights
  lighter = dataclasses.replace(
    devices, weights=lambda own: place(_held(own, trunk))
  )
  return _completion_numbers(
    "logps", weights, numbers, model, groups, folder, trunk, track, lighter
  )


def reward_scores(
  model: Model,
  weights: Weights,
  head: PyTree,
  groups: Sequence,
  folder: Path,
  trunk: Callable | None = None,
  track: Callable = lambda it, total: it,
  devices: Devices = ONE,
) -> Callable:
  """A lookup group -> list over K of float32 [n_k] reward-head values."""

  def numbers(both, tokens, places, states, place, at, target):
    return _row_rewards(model, *both, tokens, places, states, at)

  place = devices.weights
  beside = dataclasses.replace(
    devices, weights=lambda both: (place(_held(both[0], trunk)), both[1])
  )
  both = (weights, head)
  return _completion_numbers(
    "rewards", both, numbers, model, groups, folder, trunk, track, beside
  )


def _held(weights: Weights, trunk: Callable | None) -> Weights:
  """What goes to the devices: no frozen blocks whose states are given."""
  if trunk is None:
    return weights
  rest = {k: v for k, v in weights.trunk.items() if k != "blocks"}
  return weights.replace(trunk=rest)


def _completion_numbers(
  name, weights, numbers, model, groups, folder, trunk, track, devices
) -> Callable:
  """Caches one number a completion token; see `reference_logps`."""
  offsets = _offsets([group_targets(g) for g in groups])
  length = _row_length(groups)

  def fill(out):
    total = -(-len(_rows(groups, length)) // devices.rows)
    batches = _batches(groups, length, devices.rows)
    placed = devices.weights(weights)
    for rows, (tokens, places, *targets) in track(batches, total):
      states = None
      if trunk is not None:
        states = np.zeros((*tokens.shape, model.config.width), np.float32)
        for r, row in enumerate(rows):
          for i, start in row:
            end = start + group_slots(groups[i])
            states[r, start:end] = trunk(groups[i])
      inputs = devices.batch((tokens, places, states, *targets))
      with devices.use():
        found = numbers(placed, *inputs)
      found = devices.result(found)
      for r, row in enumerate(rows):
        m = 0
        for i, _ in row:
          n = offsets[i + 1] - offsets[i]
          out[offsets[i] : offsets[i + 1]] = found[r, m : m + n]
          m += n

  key, shape = _key(model, weights, groups, devices), (int(offsets[-1]),)
  array = cache.cached(folder, name, key, shape, fill, devices.agree)
  number = _number(groups)

  def look_up(group):
    (i, _), out, at = number[id(group)], [], 0
    flat = np.asarray(array[offsets[i] : offsets[i + 1]])
    for c in group.completions:
      out.append(flat[at : at + len(c)])
      at += len(c)
    return out

  return look_up


def _key(model: Model, weights: PyTree, groups: Sequence, devices) -> dict:
  """Everything that the numbers of `groups` follow from."""
  return {
    **({"devices": devices.key} if devices.key else {}),
    "tokens": tokens_fingerprint(groups),
    "weights": fingerprint(weights),
    "config": dataclasses.asdict(model.config),
    "blocks": model.trunk_blocks,
    "dtype": model.dtype,
  }


def _number(groups):
  """Groups hold arrays and cannot be hashed; their identity can, while held."""
  return {id(group): (i, group) for i, group in enumerate(groups)}
