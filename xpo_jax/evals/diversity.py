"""How much the samples of one prompt differ; tokens as in evals/text.py.

What one text repeats of itself is `text.repetition`, and n-grams over a whole
corpus are `text.distinct_n`.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
import math

import numpy as np

from xpo_jax.evals import text

ORDER = 4  # n-grams of BLEU


def distinct_of_prompt(texts: Sequence[str], n: int) -> np.ndarray:
  """[samples] unique n-grams / n-grams over all samples of a prompt.

  The same number for each, so that a mean over samples is one over prompts; NaN
  where no sample has n tokens. It falls with the number of samples.

  Args:
    texts: [samples] of one prompt.
    n: of the n-grams.

  Source: methods.md 13.2.
  """
  return np.full(len(texts), text.distinct_n(texts, n))


def self_bleu(texts: Sequence[str]) -> np.ndarray:
  """[samples] BLEU-4 of each against the others of its prompt; 1 = a copy.

  NaN for a sample without tokens, or where it has no other.

  Source: Zhu et al. 2018, arXiv 1802.01886; methods.md 13.2.
  """
  tokens = [own.lower().split() for own in texts]
  return np.asarray(
    [
      bleu(own, [o for j, o in enumerate(tokens) if j != i])
      for i, own in enumerate(tokens)
    ]
  )


OF_PROMPT: Mapping[str, Callable[[Sequence[str]], np.ndarray]] = {
  "distinct-2 of a prompt": lambda texts: distinct_of_prompt(texts, 2),
  "self-BLEU": self_bleu,
}


def of_prompts(name: str, size: int, texts: Sequence[str]) -> np.ndarray:
  """[texts] a measure of OF_PROMPT on texts that are `size` a prompt."""
  starts = range(0, len(texts), size)
  return np.concatenate([OF_PROMPT[name](texts[i : i + size]) for i in starts])


def bleu(tokens: Sequence[str], references: Sequence[Sequence[str]]) -> float:
  """exp(mean_{n=1..4} ln p_n) x min(1, exp(1 - r / c)).

  p_n = matched / all n-grams of the text, an n-gram counted at most as often
  as some one reference has it; for n >= 2 both get + 1. c tokens, r those of
  the reference nearest in length, the shorter of two.

  Reference: Papineni et al. 2002; smoothing of Lin and Och 2004.
  """
  if not len(tokens) or not references:
    return math.nan
  total = 0.0
  for n in range(1, ORDER + 1):
    own = Counter(_ngrams(tokens, n))
    limit: Counter = Counter()
    for reference in references:
      limit |= Counter(_ngrams(reference, n))
    add = int(n > 1)
    matched = sum((own & limit).values()) + add
    if not matched:
      return 0.0
    total += math.log(matched / (sum(own.values()) + add))
  length = len(tokens)
  nearest = min((abs(len(r) - length), len(r)) for r in references)[1]
  return math.exp(total / ORDER + min(0.0, 1 - nearest / length))


def sequence_entropy(logps: Sequence[np.ndarray]) -> np.ndarray:
  """[samples] -S = -sum_t log p_t, nats; its mean estimates the entropy.

  Only of samples at temperature 1 without top-p; else it is how unlikely the
  policy finds what was drawn.

  Args:
    logps: token log-probs of each sample under the policy that wrote it.
  """
  return np.asarray([-np.sum(own, dtype=np.float64) for own in logps])


def _ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
  return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
