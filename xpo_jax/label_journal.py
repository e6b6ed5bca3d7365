"""The answers of `xpo label` in a file, and how far people agree."""

import collections
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import itertools
import json
import os
from pathlib import Path

from xpo_jax.errors import data_error
from xpo_jax.evals import statistics

CHOICES = ("0", "1", "tie")  # the better completion, by its place in the data


@dataclasses.dataclass(frozen=True)
class Answer:
  """What one person said of one pair.

  Attributes:
    id: of the pair: the same for the same texts, whatever their order.
    annotator: who.
    choice: of CHOICES.
    repeat: whether the pair had been asked before.
  """

  id: str
  annotator: str
  choice: str
  repeat: bool


def read(path: Path) -> list[Answer]:
  """The answers of a file, [] if there is none.

  Raises:
    XpoError: (65) a row that `xpo label` did not write.
  """
  if not path.is_file():
    return []
  answers = []
  with open(path, encoding="utf-8") as f:
    for number, line in enumerate(f, 1):
      try:
        row = json.loads(line)
        own = Answer(*(row[x.name] for x in dataclasses.fields(Answer)))
      except (ValueError, LookupError, TypeError, RecursionError) as e:
        raise data_error(
          f"{path}:{number}: not a row of xpo label; name another --out"
        ) from e
      if own.choice not in CHOICES:
        raise data_error(f"{path}:{number}: choice {own.choice!r:.40}")
      answers.append(own)
  return answers


def cut_torn_row(path: Path) -> None:
  """Cuts a last line without its end: a process died while it wrote it."""
  if path.is_file():
    whole = path.read_bytes()
    kept = whole.rfind(b"\n") + 1
    if kept < len(whole):
      os.truncate(path, kept)


def append(path: Path, row: Mapping[str, object]) -> int:
  """Adds a row so that a crash cannot lose it; the file's size before."""
  with open(path, "a", encoding="utf-8") as f:
    size = f.tell()
    f.write(json.dumps(row, ensure_ascii=False) + "\n")
    f.flush()
    os.fsync(f.fileno())
  return size


def agreement(
  answers: Sequence[Answer], labels: Mapping[str, str]
) -> list[dict]:
  """Shares of agreement with their 95% Wilson intervals.

  Between any two annotators over the pairs that both saw (their first
  answers), with Cohen's kappa; of each with their own repeats; of each with the
  labels of the data, ties left out.

  Args:
    answers: of everyone.
    labels: id -> "0" or "1", what the data say.
  """
  firsts = collections.defaultdict(dict)
  repeats = collections.defaultdict(dict)
  for own in answers:
    (repeats if own.repeat else firsts)[own.annotator][own.id] = own.choice
  out = []
  for one, two in itertools.combinations(sorted(firsts), 2):
    both = _pairs(firsts[one], firsts[two])
    if both:
      out.append(_row(f"{one}, {two}", both) | {"kappa": kappa(both)})
  for name in sorted(firsts):
    both = _pairs(firsts[name], repeats[name])
    if both:
      out.append(_row(f"{name}, again", both))
    both = [p for p in _pairs(firsts[name], labels) if p[0] != "tie"]
    if both:
      out.append(_row(f"{name}, data", both))
  return out


def kappa(both: Sequence[tuple[str, str]]) -> float | None:
  """Cohen's kappa (p_o - p_e) / (1 - p_e); None where chance alone is sure.

  Reference: Cohen, A coefficient of agreement for nominal scales, 1960.
  """
  n = len(both)
  one = collections.Counter(a for a, _ in both)
  two = collections.Counter(b for _, b in both)
  expected = sum(one[c] * two[c] for c in one) / n**2
  observed = sum(a == b for a, b in both) / n
  return None if expected == 1 else (observed - expected) / (1 - expected)


def _pairs(one: Mapping[str, str], two: Mapping[str, str]):
  return [(one[id], two[id]) for id in one if id in two]


def _row(who: str, both: Iterable[tuple[str, str]]) -> dict:
  same = [a == b for a, b in both]
  share = statistics.wilson(sum(same), len(same))
  return {
    "who": who,
    "n": len(same),
    "agreement": share.value,
    "low": share.low,
    "high": share.high,
  }
