"""Which of the prompts that a model made up are worth keeping.

Source: Wang et al. 2023, Self-Instruct, arXiv 2212.10560, section 2.2 (too
like a known prompt, words of what a text model cannot do, length); methods.md
6.1.
"""

import collections
from collections.abc import Iterable, Sequence
import dataclasses
import re

# A letter of Chinese, Japanese or Korean is a word; else runs of letters and
# digits are.
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(f"[{_CJK}]|[^\\W_{_CJK}]+")
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
    overlap: ROUGE-L with a known prompt at or above it.
    min_words: fewer words than that.
    max_words: more words than that.
    keywords: one of these is among its words, in any case.
  """

  overlap: float = 0.7
  min_words: int = 4
  max_words: int = 150
  keywords: tuple[str, ...] = KEYWORDS


def keep_new(
  texts: Iterable[str], known: Sequence[str], rules: Rules = Rules()
) -> tuple[list[str], collections.Counter]:
  """The prompts that pass, in order; each one kept is known from then on.

  Args:
    texts: made-up prompts; white space around them is taken off.
    known: prompts that there are already.
    rules: see Rules.

  Returns:
    the kept prompts; reason (short, long, keyword, start, similar) -> dropped.
  """
  pool = [words(own) for own in known]
  kept, dropped = [], collections.Counter()
  for text in map(str.strip, texts):
    own = words(text)
    reason = fault(text, rules)
    if not reason and any(similar(own, other, rules.overlap) for other in pool):
      reason = "similar"
    if reason:
      dropped[reason] += 1
    else:
      kept.append(text)
      pool.append(own)
  return kept, dropped


def fault(text: str, rules: Rules = Rules()) -> str:
  """What is wrong with a prompt by itself; "" for nothing."""
  own = words(text)
  if len(own) < rules.min_words:
    return "short"
  if len(own) > rules.max_words:
    return "long"
  if not {word.casefold() for word in rules.keywords}.isdisjoint(own):
    return "keyword"
  opening = text.lstrip("\"'“‘«¿¡(「『《")
  return "" if opening[:1].isalnum() else "start"


def words(text: str) -> list[str]:
  """Words in one case; a letter of Chinese, Japanese or Korean is one."""
  return _WORD.findall(text.casefold())


def rouge_l(one: Sequence[str], two: Sequence[str]) -> float:
  """F1 of the longest common subsequence of words: 2 L / (n + m); 0 if empty.

  Source: Lin 2004, ROUGE, section 3.
  """
  total = len(one) + len(two)
  return 2 * common_length(one, two) / total if total else 0.0


def similar(one: Sequence[str], two: Sequence[str], overlap: float) -> bool:
  """Whether ROUGE-L >= overlap."""
  # No subsequence is longer than the shorter text: most pairs end here.
  most = 2 * min(len(one), len(two))
  if most < overlap * (len(one) + len(two)):
    return False
  return rouge_l(one, two) >= overlap


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
