"""What a tokenizer.json may make of a text; checked before the library has it.

The file is data, but data that works: replacements that feed each other turn
one letter into gigabytes, as does a fixed padding; a pattern with a repeated
choice tries every split of a text; and a merge that is not in the vocabulary
ends the library's process.
"""

from collections.abc import Iterable, Iterator
import math
import re

MAX_GROWTH = 1000  # characters out for one in, by all replacements together
MAX_ADDED = 10_000  # ids that a post-processor adds to a text
MAX_ID = 2**31
MAX_PATTERN = 10_000  # characters; the longest known has 1500
_STEPS = ("normalizer", "pre_tokenizer", "decoder")
_NAMED = re.compile(r"\\[pPxuk]\{[^}]*\}")
_ENDLESS = re.compile(r"[*+]|\{[0-9]*,\}|\{[0-9]*,[0-9]{3,}\}")


def check(content: dict) -> None:
  """Checks the parsed file.

  Raises:
    ValueError: what is too much, in one line.
  """
  for step in _STEPS:
    growth = sum(
      math.log(max(1, len(node["content"])))
      for node in _nodes(content.get(step))
      if node.get("type") == "Replace" and isinstance(node.get("content"), str)
    )
    if growth > math.log(MAX_GROWTH):
      raise ValueError(
        f"the replacements of its {step} make more than {MAX_GROWTH} characters"
        " of one"
      )
    for node in _nodes(content.get(step)):
      pattern = node.get("Regex")
      if isinstance(pattern, str) and has_repeated_choice(pattern):
        raise ValueError(
          f"its {step} has a pattern that is too long, or that repeats a group"
          f" which can be read in several ways: {pattern!r:.80}"
        )
  model = content.get("model")
  model = model if isinstance(model, dict) else {}
  vocab, prefix = model.get("vocab"), model.get("continuing_subword_prefix")
  for token, i in vocab.items() if isinstance(vocab, dict) else ():
    if type(i) is not int or not 0 <= i < MAX_ID:
      raise ValueError(f"token {token!r:.80} has the id {i!r:.80}")
  if isinstance(model.get("merges"), list):
    check_merges(vocab, map(_pair, model["merges"]), prefix)
  added = sum(
    len(node["ids"])
    for node in _nodes(content.get("post_processor"))
    if isinstance(node.get("ids"), list)
  )
  used = sum(
    "SpecialToken" in node for node in _nodes(content.get("post_processor"))
  )
  if added * used > MAX_ADDED:
    raise ValueError(f"its post_processor may add {added * used} ids to a text")


def _pair(merge):
  """[a, b], which older files write as "a b"."""
  return merge.split(" ") if isinstance(merge, str) else merge


def check_merges(vocab, merges: Iterable, prefix: str | None = None) -> None:
  """Both parts of a merge, and what they make, must be in the vocabulary.

  Args:
    vocab: token -> id.
    merges: pairs of tokens.
    prefix: what every second part begins with, and which is left out.

  Raises:
    ValueError: the first that is not.
  """
  prefix = prefix or ""
  if not isinstance(vocab, dict) or not isinstance(prefix, str):
    raise ValueError("its merges have no vocabulary")
  for pair in merges:
    texts = isinstance(pair, list | tuple) and all(
      isinstance(part, str) for part in pair
    )
    if texts and pair[:1] == ["#version:"]:  # of the oldest files
      continue
    if (
      not texts
      or len(pair) != 2
      or not pair[1].startswith(prefix)
      or not {*pair, pair[0] + pair[1][len(prefix) :]} <= vocab.keys()
    ):
      raise ValueError(f"its merge {pair!r:.80} is not in the vocabulary")


def has_repeated_choice(pattern: str) -> bool:
  """Whether a group repeated without end holds a repeat or a choice itself.

  Such a pattern can take exponential time. Too long a pattern counts as one.
  """
  if len(pattern) > MAX_PATTERN:
    return True
  text, opened = _without_sets(pattern), []
  for at, char in enumerate(text):
    if char == "(":
      opened.append(at)
    elif char == ")" and opened:
      inside = text[opened.pop() + 1 : at]
      several = "|" in inside or _ENDLESS.search(inside)
      if several and _ENDLESS.match(text, at + 1):
        return True
  return False


def _without_sets(pattern: str) -> str:
  """Escapes and [...] sets, also nested ones, each as one letter."""
  out, depth, at = [], 0, 0
  while at < len(pattern):
    char = pattern[at]
    if char == "\\":
      named = _NAMED.match(pattern, at)
      at = named.end() if named else at + 2
      out += "" if depth else "x"
      continue
    if char == "[":
      depth += 1
    elif char == "]" and depth:
      depth -= 1
      out += "" if depth else "x"
    elif not depth:
      out += char
    at += 1
  return "".join(out)


def _nodes(value) -> Iterator[dict]:
  """Every object in a JSON value."""
  left = [value]
  while left:
    value = left.pop()
    if isinstance(value, dict):
      yield value
      left += value.values()
    elif isinstance(value, list):
      left += value
