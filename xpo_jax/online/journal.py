"""A rollout on the disk: what was drawn, judged and computed from it.

A run that is killed reads it again: the same tokens, and no judge is asked
twice. `NNNNNN.jsonl` is for people; the other files go once no checkpoint
could need them.
"""

from collections.abc import Sequence
import hashlib
import json
import os
from pathlib import Path

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_bytes

from xpo_jax import checkpoint
from xpo_jax.data import dialogues

FOLDER = "rollouts"


def folder_of(run: Path) -> Path:
  path = run / FOLDER
  path.mkdir(parents=True, exist_ok=True)
  return path


def file_of(run: Path, number: int, what: str) -> Path:
  """The file of rollout `number`; `what` is its ending."""
  return folder_of(run) / f"{number:06d}.{what}"


def write(path: Path, arrays: dict[str, np.ndarray], meta: dict) -> None:
  """Atomic and on the disk when it returns; process 0 only."""
  if jax.process_index():
    return
  arrays = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
  meta = {"meta": json.dumps(meta), "sha256": _digest(arrays)}
  part = path.with_suffix(path.suffix + ".part")
  with open(part, "wb") as f:
    f.write(save_bytes(arrays, meta))
    f.flush()
    os.fsync(f.fileno())
  part.replace(path)


def read(path: Path, meta: dict) -> dict[str, np.ndarray] | None:
  """The arrays; None if they are not there, damaged, or of something else."""
  try:
    with safe_open(path, "numpy") as f:
      found = dict(f.metadata() or {})
      arrays = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
  except (OSError, SafetensorError):
    return None
  same = found.get("meta") == json.dumps(meta)
  return arrays if same and found.get("sha256") == _digest(arrays) else None


def forget(samples: Path, meta: dict) -> None:
  """Removes the verdicts on samples that follow from something else.

  A run that goes on with other numbers (on other devices, in other
  microbatches) draws anew what its checkpoint does not hold yet.
  """
  try:
    with safe_open(samples, "numpy") as f:
      other = dict(f.metadata() or {}).get("meta") != json.dumps(meta)
  except (OSError, SafetensorError):
    return
  if other and not jax.process_index():
    for what in ("judge", "gold"):
      samples.with_suffix(f".{what}").unlink(missing_ok=True)


def _digest(arrays: dict[str, np.ndarray]) -> str:
  whole = hashlib.sha256()
  for name in sorted(arrays):
    value = np.ascontiguousarray(arrays[name])
    whole.update(f"{name} {value.dtype} {value.shape}\n".encode())
    whole.update(value.tobytes())
  return whole.hexdigest()


def write_texts(
  run: Path, number: int, prompts: Sequence, texts, scores, ended
) -> None:
  """One line a prompt: what the policy wrote, and what it was worth."""
  lines = []
  for b, prompt in enumerate(prompts):
    own = [float(s) if np.isfinite(s) else None for s in scores[b]]
    row = {
      "prompt": dialogues.as_text(prompt, cue=False),
      "completions": list(texts[b]),
      "scores": own,
      "ended": [bool(e) for e in ended[b]],
    }
    lines.append(json.dumps(row, ensure_ascii=False))
  path = file_of(run, number, "jsonl")
  checkpoint.write_text(path, "\n".join(lines) + "\n")


def prune(run: Path, oldest: int, step: int) -> None:
  """Removes what only checkpoints older than the oldest could need.

  Args:
    run: folder.
    oldest: the first rollout that could be made again.
    step: of the oldest checkpoint; evaluations before it are done.
  """
  if jax.process_index():
    return
  for path in folder_of(run).iterdir():
    name, _, what = path.name.partition(".")
    evaluation, digits = name.startswith("e"), name.removeprefix("e")
    if what == "jsonl" or not digits.isdigit():
      continue
    if int(digits) < (step if evaluation else oldest):
      path.unlink(missing_ok=True)
