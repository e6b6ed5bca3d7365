"""Surface measures of generated texts: diversity, repetition, broken words.

Tokens are lower-cased and split at white space, except for `words`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
import re

import numpy as np

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


def distinct_n(texts: Sequence[str], n: int) -> float:
  """Unique n-grams / n-grams over the pooled texts; NaN without any.

  It falls with the number of texts: compare corpora of one size.

  Reference: Li et al., A diversity-promoting objective function for neural
  conversation models, 2016, section 5 (there divided by words).
  """
  grams = [gram for text in texts for gram in _ngrams(text, n)]
  return len(set(grams)) / len(grams) if grams else np.nan


def repetition(texts: Sequence[str], n: int = 4) -> np.ndarray:
  """[texts] share of a text's n-grams that it has said before.

  1 - unique n-grams / n-grams inside one text; 0 if it is shorter than n.
  """
  return np.asarray([_repeated(_ngrams(text, n)) for text in texts])


def length(texts: Sequence[str]) -> np.ndarray:
  """[texts] length in white-space tokens."""
  return np.asarray([len(text.split()) for text in texts], np.float64)


def identical_share(texts: Sequence[str]) -> float:
  """Share of texts that some other text equals, up to case and spacing.

  0 = all differ, 1 = every text has a twin (collapse); NaN without texts.
  """
  count = Counter(" ".join(text.lower().split()) for text in texts)
  twins = sum(times for times in count.values() if times > 1)
  return twins / len(texts) if len(texts) else np.nan


def words(text: str) -> list[str]:
  """Runs of letters in lower case, apostrophes kept inside, final 's cut."""
  found = WORD.findall(text.lower().replace("’", "'"))
  return [word.removesuffix("'s") for word in found]


def vocabulary(texts: Iterable[str]) -> frozenset[str]:
  """All words of the reference texts, usually the training completions."""
  return frozenset(word for text in texts for word in words(text))


def broken_words(texts: Sequence[str], reference: frozenset[str]) -> np.ndarray:
  """[texts] share of a text's words that `reference` lacks; NaN if it has none.

  Rare names and honest new words count too, so read it beside the same share
  of people's held-out texts.
  """
  return np.asarray([_unknown(words(text), reference) for text in texts])


def _unknown(found: list[str], reference: frozenset[str]) -> float:
  missing = sum(word not in reference for word in found)
  return missing / len(found) if found else np.nan


def _repeated(grams: list[tuple[str, ...]]) -> float:
  return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
  tokens = text.lower().split()
  return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
