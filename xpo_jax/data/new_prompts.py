"""Prompts that a model made up: the requests for them, and which ones to keep.

Source: Wang et al. 2023, Self-Instruct, arXiv 2212.10560, section 2.2 (too
like a known prompt, words of what a text model cannot do, length); methods.md
6.1.
"""

import array
import collections
from collections.abc import Iterable, Sequence
import dataclasses
import re

import numpy as np

# A letter of Chinese, Japanese or Korean is a word; else runs of letters and
# digits are.
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(f"[{_CJK}]|[^\\W_{_CJK}]+")
_NUMBER = re.compile(r"\d{1,3}[.)]\s+")
_OPENING = "\"'“‘«¿¡(「『《"
# What a model that only reads and writes text cannot see, hear or make.
KEYWORDS = (
  "audio", "chart", "diagram", "draw", "file", "files", "flowchart", "graph",
  "graphs", "image", "images", "map", "maps", "music", "photo", "photos",
  "picture", "pictures", "plot", "video", "videos",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Rules:
  """When a prompt is dropped.

  Attributes:
    overlap: ROUGE-L with a known prompt at or above it, in (0, 1].
    min_words: fewer words than that.
    max_words: more words than that.
    keywords: one of these is among its words, in any case.
  """

  overlap: float = 0.7
  min_words: int = 4
  max_words: int = 150
  keywords: tuple[str, ...] = KEYWORDS


class Pool:
  """Known prompts, found by the words that they share with another text."""

  def __init__(self, texts: Iterable[str] = ()):
    self._words: list[list[str]] = []
    self._sizes = array.array("i")
    # The k-th time that a text has some word -> the numbers of such texts.
    self._places = collections.defaultdict(lambda: array.array("i"))
    for text in texts:
      self.add(text)

  def add(self, text: str) -> None:
    """The text is known from now on."""
    own = words(text)
    for key in _counted(own):
      self._places[key].append(len(self._words))
    self._words.append(own)
    self._sizes.append(len(own))

  def has_like(self, text: str, overlap: float) -> bool:
    """Whether ROUGE-L with one of them is >= overlap > 0.

    No subsequence is longer than the number of shared words, which is counted
    for all texts at once: nearly all end there.
    """
    own = words(text)
    found = [self._places[k] for k in _counted(own) if k in self._places]
    if not found:
      return False
    numbers = np.concatenate([np.frombuffer(f, np.intc) for f in found])
    shared = np.bincount(numbers, minlength=len(self._words))
    most = 2 * shared / (len(own) + np.frombuffer(self._sizes, np.intc))
    near = np.flatnonzero(most >= overlap)
    return any(rouge_l(own, self._words[n]) >= overlap for n in near)


def _counted(own: Sequence[str]) -> list[tuple[str, int]]:
  """Words numbered by their repetition, so that bags of words become sets."""
  seen: collections.Counter = collections.Counter()
  out = []
  for word in own:
    out.append((word, seen[word]))
    seen[word] += 1
  return out


def request(heading: str, shots: Sequence[str]) -> str:
  """A numbered list with the number of one more entry at its end."""
  lines = [f"{n}. {text}" for n, text in enumerate(shots, 1)]
  return "\n".join([*([heading, ""] if heading else ()), *lines]) + (
    f"\n{len(shots) + 1}."
  )


def parse(reply: str) -> str:
  """The reply's first line, without the number that a list would have."""
  lines = reply.strip().splitlines()
  return _NUMBER.sub("", lines[0].strip(), count=1) if lines else ""


def keep_new(
  texts: Iterable[str], pool: Pool, rules: Rules = Rules()
) -> list[str]:
  """Why each text is dropped, "" if it is kept: the pool has it from then on.

  The reasons are those of `fault`, and similar.
  """
  reasons = []
  for text in texts:
    reason = fault(text, rules)
    if not reason and pool.has_like(text, rules.overlap):
      reason = "similar"
    if not reason:
      pool.add(text)
    reasons.append(reason)
  return reasons


def fault(text: str, rules: Rules = Rules()) -> str:
  """What is wrong with a prompt by itself; "" for nothing.

  empty, garbled (bytes that are no text), start (with a mark that opens no
  quotation), short, long, or keyword.
  """
  own = words(text)
  if not text:
    return "empty"
  if "\ufffd" in text:
    return "garbled"
  if not text.lstrip(_OPENING)[:1].isalnum():
    return "start"
  if len(own) < rules.min_words:
    return "short"
  if len(own) > rules.max_words:
    return "long"
  refused = {word.casefold() for word in rules.keywords}
  return "" if refused.isdisjoint(own) else "keyword"


def words(text: str) -> list[str]:
  """Words in one case; a letter of Chinese, Japanese or Korean is one."""
  return _WORD.findall(text.casefold())


def rouge_l(one: Sequence[str], two: Sequence[str]) -> float:
  """F1 of the longest common subsequence of words: 2 L / (n + m); 0 if empty.

  Source: Lin 2004, ROUGE, section 3.
  """
  total = len(one) + len(two)
  return 2 * common_length(one, two) / total if total else 0.0


def common_length(one: Sequence[str], two: Sequence[str]) -> int:
  """Length of the longest common subsequence.

  The row of the usual table as the bits of one number, a 0 where the length
  grows. Source: Hyyrö 2004, Bit-parallel LCS-length computation revisited.
  """
  places: dict[str, int] = collections.defaultdict(int)
  for n, word in enumerate(one):
    places[word] |= 1 << n
  every = (1 << len(one)) - 1
  row = every
  for word in two:
    found = row & places[word]
    row = ((row + found) | (row - found)) & every
  return len(one) - row.bit_count()
