"""Rewards that can be checked by rule: answer, length, form, sentiment.

Each function makes a judge. Rules are sure of themselves: no reply is invalid.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
import functools
import json
from pathlib import Path
import re

import numpy as np

from xpo_jax.data.records import Prompt
from xpo_jax.errors import data_error, usage_error
from xpo_jax.judges.candidates import Candidates, Judge, Judgement

UNITS = ("characters", "words")
_LEXICON = Path(__file__).with_name("prompts") / "lexicon.json"
_QUOTES = ('""', "''", "``", "\u201c\u201d", "\u2018\u2019", "\u00ab\u00bb")
# The rest of the line after the last "####".
_FINAL = r"####(?!#)\s*((?:(?!####)[^\n])*)"


def by_text(score: Callable[[Prompt, str], float]) -> Judge:
  """A judge of single texts; absent completions are NaN."""

  def judge(candidates: Candidates) -> Judgement:
    scores = np.full(candidates.shape, np.nan)
    for b, k in candidates.places():
      scores[b, k] = score(candidates.prompts[b], candidates.texts[b][k])
    return Judgement(
      scores, int(candidates.present.sum()), collections.Counter()
    )

  return judge


def exact_match(
  answers: Mapping[Prompt, str | Sequence[str]], pattern: str = ""
) -> Judge:
  """1 if the answer is one of those known for its prompt, else 0.

  Case, white space, outer quotes, the full stop or mark that ends a sentence
  and commas in numbers do not count; see `normalised`.

  Args:
    answers: prompt -> right answer, or all that are right.
    pattern: the answer is what the first group of the LAST match of this
      regular expression holds; no match is a wrong answer. Empty: the whole
      text.

  Raises:
    XpoError: a bad pattern; when judging, a prompt without a known answer.
  """
  find = _compiled("pattern", pattern) if pattern else None
  if find is not None and find.groups < 1:
    raise usage_error(f"pattern={pattern!r} has no group; put () around it")
  as_set = lambda own: {
    normalised(a) for a in ((own,) if isinstance(own, str) else own)
  }
  known = {prompt: as_set(own) for prompt, own in answers.items()}

  def score(prompt: Prompt, text: str) -> float:
    if prompt not in known:
      raise usage_error(f"exact_match: no known answer to {prompt!r:.60}")
    if find is not None:
      matches = list(find.finditer(text))
      if not matches or matches[-1].group(1) is None:
        return 0.0
      text = matches[-1].group(1)
    return float(normalised(text) in known[prompt])

  return by_text(score)


def final_answer(answers: Mapping[Prompt, str | Sequence[str]]) -> Judge:
  """`exact_match` of what stands after the last "####" of a text.

  Known answers may be written so too; those without "####" count as a whole.

  Raises:
    XpoError: a known answer with nothing after its last "####"; as of
      `exact_match`.
  """
  known = {}
  for prompt, own in answers.items():
    known[prompt] = [
      _final(a) for a in ([own] if isinstance(own, str) else own)
    ]
    if "" in known[prompt]:
      raise data_error(
        "final_answer: nothing after the last '####' of an answer to "
        f"{prompt!r:.60}; write the answer there"
      )
  return exact_match(known, _FINAL)


def _final(text: str) -> str:
  found = re.findall(_FINAL, text)
  return found[-1].strip() if found else text


def normalised(text: str) -> str:
  """Lower case, single spaces, 1,000 -> 1000, no outer quotes or last . ! ?

  Other signs are part of an answer: .5 is not 5, and C++ is not C. A text of
  such signs alone keeps them.
  """
  text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", " ".join(text.casefold().split()))
  while True:
    bare = text.rstrip(" .!?") or text
    if bare[:1] + bare[-1:] in _QUOTES:
      bare = bare[1:-1].strip() or bare
    if bare == text:
      return text
    text = bare


def length(low: int, high: int, unit: str = "words") -> Judge:
  """1 for a length in [low, high]; outside it falls with the share missed.

    1 - (low - n) / low   below        max(0, 1 - (n - high) / high)   above

  Raises:
    XpoError: not 1 <= low <= high, or an unknown unit.
  """
  if not 1 <= low <= high:
    raise usage_error(f"length: low={low}, high={high}; want 1 <= low <= high")
  if unit not in UNITS:
    raise usage_error(f"length: unit={unit!r}; choose {' or '.join(UNITS)}")

  def score(prompt: Prompt, text: str) -> float:
    n = len(text.split()) if unit == "words" else len(text.strip())
    if n < low:
      return n / low
    return max(0.0, 1 - max(0, n - high) / high)

  return by_text(score)


def format_match(pattern: str) -> Judge:
  """1 if the whole stripped text matches the expression ("." takes newlines).

  Raises:
    XpoError: a bad pattern.
  """
  find = _compiled("pattern", pattern)
  return by_text(lambda prompt, text: float(bool(find.fullmatch(text.strip()))))


def _compiled(name: str, pattern: str) -> re.Pattern:
  try:
    return re.compile(pattern, re.DOTALL)
  except re.error as e:
    raise usage_error(f"{name}={pattern!r}: {e}; mend the expression") from e


def sentiment() -> Judge:
  """Sentiment in (-1, 1) by a small word list of our own.

    s / sqrt(s^2 + 15),  s = sum of the words' values

  A negation among the three words before a word turns it round and takes a
  quarter off; an intensifier right before it adds a half. The squashing is that
  of VADER; the list (prompts/lexicon.json) is not. It is a toy that a tiny
  policy can learn: measure with `evals.gold`.
  """
  return by_text(lambda prompt, text: sentiment_of(text))


def sentiment_of(text: str) -> float:
  """See `sentiment`."""
  lexicon = _lexicon()
  words = re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower().replace("\u2019", "'"))
  total = 0.0
  for n, word in enumerate(words):
    value = lexicon["words"].get(word, 0.0)
    if n and words[n - 1] in lexicon["intensifiers"]:
      value *= 1.5
    before = words[max(0, n - 3) : n]
    if any(w in lexicon["negations"] or w.endswith("n't") for w in before):
      value *= -0.75
    total += value
  return total / float(np.sqrt(total**2 + 15))


@functools.cache
def _lexicon() -> dict:
  raw = json.loads(_LEXICON.read_text(encoding="utf-8"))
  words = {
    word: float(value)
    for value, words in raw["words"].items()
    for word in words.split()
  }
  return {
    "words": words,
    "negations": frozenset(raw["negations"].split()),
    "intensifiers": frozenset(raw["intensifiers"].split()),
  }
