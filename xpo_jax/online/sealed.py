"""A rollout's groups with their columns, as a file between two steps."""

import hashlib
from pathlib import Path

import numpy as np

from xpo_jax.data.records import TokenGroup
from xpo_jax.errors import checkpoint_error
from xpo_jax.online import journal
from xpo_jax.online.groups import Groups

_COLUMN = "column:"


def write(
  run: Path, number: int, prompts: list[TokenGroup], groups: Groups
) -> str:
  """Seals rollout `number`; returns the digest that a checkpoint notes."""
  arrays = _arrays(prompts, groups)
  journal.write(_path(run, number), arrays, {"rollout": number})
  return _digest(arrays)


def read(
  run: Path, number: int, prompts: list[TokenGroup], digest: str
) -> Groups:
  """The groups of `write`.

  Raises:
    XpoError: (66) they are not there, or others than the checkpoint's.
  """
  found = journal.read(_path(run, number), {"rollout": number})
  if found is None or _digest(found) != digest:
    raise checkpoint_error(
      f"{_path(run, number)}: missing or not the rollout that the checkpoint "
      "was in the middle of; bring it back, or delete that checkpoint"
    )
  return _groups(prompts, found)


def _path(run: Path, number: int) -> Path:
  return journal.file_of(run, number, "rollout")


def _digest(arrays: dict[str, np.ndarray]) -> str:
  whole = hashlib.sha256()
  for name in sorted(arrays):
    whole.update(name.encode())
    whole.update(np.ascontiguousarray(arrays[name]).tobytes())
  return whole.hexdigest()[:16]


def _arrays(prompts: list[TokenGroup], groups: Groups) -> dict:
  """Ragged lists as flat arrays; `prompt` -1 is an empty place."""
  place = {g.id: i for i, g in enumerate(prompts)}
  there = [g for g in groups if g is not None]
  completions = [c for g in there for c in g.completions]
  flat = lambda parts, kind: np.concatenate([np.zeros(0, kind), *parts])
  names = sorted(there[0].columns) if there else []
  return {
    "prompt": np.array([-1 if g is None else place[g.id] for g in groups]),
    "completions": np.array([len(g.completions) for g in there], np.int64),
    "lengths": np.array([len(c) for c in completions], np.int64),
    "tokens": flat(completions, np.int32).astype(np.int32),
    "ended": np.array([e for g in there for e in g.ended], bool),
    "feedback": np.array([f for g in there for f in g.feedback], np.float64),
  } | {
    _COLUMN + name: flat(
      [c for g in there for c in g.columns[name]], np.float32
    )
    for name in names
  }


def _groups(prompts: list[TokenGroup], arrays: dict) -> Groups:
  names = [n for n in arrays if n.startswith(_COLUMN)]
  out, first, at = [], 0, 0
  counts = iter(arrays["completions"])
  for index in arrays["prompt"]:
    if index < 0:
      out.append(None)
      continue
    count = int(next(counts))
    sizes = arrays["lengths"][first : first + count]
    ends = at + np.cumsum(sizes)
    cut = lambda x, n=ends, s=sizes: tuple(
      x[e - length : e] for e, length in zip(n, s, strict=True)
    )
    own, prompt = slice(first, first + count), prompts[index]
    out.append(
      TokenGroup(
        id=prompt.id,
        cluster=prompt.cluster,
        prompt=prompt.prompt,
        completions=cut(arrays["tokens"]),
        ended=tuple(bool(e) for e in arrays["ended"][own]),
        feedback=tuple(float(f) for f in arrays["feedback"][own]),
        kind=prompt.kind,
        columns={n.removeprefix(_COLUMN): cut(arrays[n]) for n in names},
      )
    )
    first, at = first + count, at + int(sizes.sum())
  return out
