"""What is asked of the sampler: ranges checked, prompts as one array."""

from collections.abc import Sequence
import numbers

import numpy as np

from xpo_jax.errors import usage_error


def check(
  max_new_tokens: int,
  temperature: float,
  top_p: float,
  completions: int,
  top_k: int,
) -> None:
  """Ranges of a call's settings.

  Raises:
    XpoError: a value out of range.
  """
  whole, real = numbers.Integral, numbers.Real
  for name, value, kind, holds, words in (
    ("max_new_tokens", max_new_tokens, whole, lambda v: v >= 1, "an int >= 1"),
    ("temperature", temperature, real, lambda v: v >= 0, ">= 0 (0 is greedy)"),
    ("top_p", top_p, real, lambda v: 0 < v <= 1, "in (0, 1]"),
    ("completions", completions, whole, lambda v: v >= 1, "an int >= 1"),
    ("top_k", top_k, whole, lambda v: v >= 0, "an int >= 0 (0 keeps all)"),
  ):
    if not (isinstance(value, kind) and holds(value)):
      raise usage_error(f"{name}={value!r}: must be {words}")


def check_room(
  ids: Sequence[np.ndarray], max_new_tokens: int, context: int
) -> None:
  """Whether a model of `context` tokens can read all that is asked.

  Raises:
    XpoError: the longest of the prompts leaves no room for the new tokens.
  """
  longest = max(map(len, ids))
  if longest + max_new_tokens > context:
    raise usage_error(
      f"generate: prompt of {longest} tokens + max_new_tokens="
      f"{max_new_tokens} exceed the model's context of {context}; shorten one "
      "of them"
    )


def pad(ids: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Prompts of any lengths -> int32 [B, P] and lengths [B].

  P is a multiple of 16, of 64 if it is long: few compilations.
  """
  lengths = np.array([len(x) for x in ids], np.int32)
  longest = int(lengths.max())
  bucket = 16 if longest <= 64 else 64
  tokens = np.zeros((len(ids), -(-longest // bucket) * bucket), np.int32)
  for row, x in zip(tokens, ids, strict=True):
    row[: len(x)] = x
  return tokens, lengths
