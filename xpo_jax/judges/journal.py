"""A judge that writes down what it said, and asks nothing twice.

One JSON line a slice of prompts, each with the SHA-256 of what was judged. A
process that dies at any byte leaves whole lines and perhaps a torn one, which
is cut off when the judge is started again.
"""

import collections
from collections.abc import Callable, Sequence
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from xpo_jax.errors import checkpoint_error, storage_error, usage_error
from xpo_jax.judges.candidates import Candidates, Judge, Judgement

_KEYS = {"sha256", "scores", "asked", "invalid", "metrics"}


def journaled(
  judge: Judge,
  path: Path,
  size: int = 16,
  first: Callable[[Callable], Any] = lambda make: make(),
  together: bool = False,
) -> Judge:
  """The judge (or pair judge), asked about `size` prompts at a time.

  Started again with the same path and candidates it repeats no slice whose
  line is whole, and its answer is the same to the bit. Scores that are not
  finite become NaN. Metrics are means over the slices, weighted by present
  completions.

  Args:
    judge: sees slices; what looks at all prompts (`nulls.guarded`) goes around
      the journal, not into it.
    path: JSONL; grows by one line a slice.
    size: prompts of a slice.
    first: of several processes, what calls its argument on one and gives its
      value (a tree of JSON) to all (`hosts.first`); that one owns the file.
    together: the judge is asked by all processes at once, not by the first.

  Raises:
    XpoError: size < 1; when judging, (66) a line of other candidates or one
      that is damaged, (74) the file cannot be read or written.
  """
  if size < 1:
    raise usage_error(f"journal {path}: size={size}; want at least one prompt")
  path = Path(path)

  def again(candidates: Candidates) -> Judgement:
    count = len(candidates.prompts)
    if not count:
      return judge(candidates)
    parts = [_part(candidates, at, at + size) for at in range(0, count, size)]
    prints = [digest(part) for part in parts]
    rows = first(lambda: _read(path, parts, prints))
    for n in range(len(rows), len(parts)):
      ask = lambda: _row(judge(parts[n]), parts[n], prints[n])
      row = ask() if together else None
      rows.append(first(lambda: _append(path, row or ask())))
    return _joined(parts, list(map(_judgement, rows, parts)))

  return again


def digest(candidates: Candidates) -> str:
  """SHA-256 (hex) of all that a judge may look at; absent texts are not."""
  plain = lambda p: (
    p if isinstance(p, str) else [[m.role, m.content] for m in p]
  )
  whole = [
    [
      plain(prompt),
      [
        [text, bool(ended)] if here else None
        for text, ended, here in zip(texts, ends, present, strict=True)
      ],
    ]
    for prompt, texts, ends, present in zip(
      candidates.prompts,
      candidates.texts,
      candidates.ended,
      candidates.present,
      strict=True,
    )
  ]
  return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def _part(whole: Candidates, start: int, end: int) -> Candidates:
  cut = slice(start, end)
  return Candidates(
    whole.prompts[cut], whole.texts[cut], whole.present[cut], whole.ended[cut]
  )


def _read(
  path: Path, parts: Sequence[Candidates], prints: Sequence[str]
) -> list[dict]:
  """The rows of the whole lines; a torn last one is cut off."""
  try:
    raw = path.read_bytes() if path.exists() else b""
    kept = raw.rfind(b"\n") + 1
    if kept < len(raw):
      os.truncate(path, kept)
  except OSError as e:
    raise storage_error(f"{path}: {e.strerror or e}") from e
  lines = raw[:kept].split(b"\n")[:-1]
  rows = []
  for n, line in enumerate(lines[: len(parts)]):
    try:
      row = json.loads(line)
      if set(row) != _KEYS:
        raise ValueError("other keys")
      same = row["sha256"] == prints[n]
      if same:
        _judgement(row, parts[n])
    except (ArithmeticError, AttributeError, RecursionError, TypeError,
            ValueError) as e:  # fmt: skip
      raise checkpoint_error(
        f"{path}:{n + 1}: no line of a judge; delete the file to judge again"
      ) from e
    if not same:
      raise _other(path, n + 1)
    rows.append(row)
  if len(lines) > len(parts):
    raise _other(path, len(parts) + 1)
  return rows


def _other(path: Path, line: int):
  return checkpoint_error(
    f"{path}:{line}: the verdict on other candidates (or on slices of another "
    "size) than these; delete the file to judge again"
  )


def _row(found: Judgement, part: Candidates, print_: str) -> dict:
  """The line as a tree of what JSON has."""
  scores = np.asarray(found.scores, np.float64)
  if not _fits(scores, part):
    raise usage_error(
      f"judge: scores {scores.shape} of {part.shape} candidates; want [B, K] "
      "or [B, K, K]"
    )
  return {
    "sha256": print_,
    "scores": np.where(np.isfinite(scores), scores, None).tolist(),
    "asked": int(found.asked),
    "invalid": {reason: int(n) for reason, n in found.invalid.items()},
    "metrics": {
      name: float(x) if math.isfinite(x) else None
      for name, x in found.metrics.items()
    },
  }


def _judgement(row: dict, part: Candidates) -> Judgement:
  """The inverse of `_row`; null is NaN."""
  scores = np.array(row["scores"], np.float64)
  if not _fits(scores, part):
    raise ValueError("another shape")
  metrics = row["metrics"].items()
  return Judgement(
    scores,
    int(row["asked"]),
    collections.Counter({k: int(n) for k, n in row["invalid"].items()}),
    {k: math.nan if x is None else float(x) for k, x in metrics},
  )


def _fits(scores: np.ndarray, part: Candidates) -> bool:
  prompts, count = part.shape
  return scores.shape in ((prompts, count), (prompts, count, count))


def _append(path: Path, row: dict) -> dict:
  """Adds the row as a line so that a crash cannot lose it."""
  line = json.dumps(row, allow_nan=False) + "\n"
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="ascii") as f:
      f.write(line)
      f.flush()
      os.fsync(f.fileno())
  except OSError as e:
    raise storage_error(
      f"{path}: {e.strerror or e}; free space and start again"
    ) from e
  return row


def _joined(
  parts: Sequence[Candidates], found: Sequence[Judgement]
) -> Judgement:
  sizes = [int(part.present.sum()) for part in parts]
  names = {name: None for own in found for name in own.metrics}
  mean = lambda name: _mean(
    [(n, own.metrics.get(name, math.nan)) for n, own in zip(sizes, found)]
  )
  return Judgement(
    np.concatenate([own.scores for own in found]),
    sum(own.asked for own in found),
    sum((own.invalid for own in found), collections.Counter()),
    {name: mean(name) for name in names},
  )


def _mean(weighted: Sequence[tuple[int, float]]) -> float:
  """Of the finite values; NaN if none has a weight."""
  known = [(n, x) for n, x in weighted if n and math.isfinite(x)]
  total = sum(n for n, _ in known)
  return sum(n * x for n, x in known) / total if total else math.nan
