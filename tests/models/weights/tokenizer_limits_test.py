"""What a tokenizer.json may make of a text."""

import json

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from tests.data.chat_families import FAMILIES
from xpo_jax.errors import Exit, XpoError
from xpo_jax.models.weights import tokenizer_limits
from xpo_jax.models.weights.tokenizer import Tokenizer, byte_tokenizer

# Built like those in use: no repeated group, or one that reads in one way.
HARMLESS = (
  r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
  r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|\s*[\r\n]+",
  r"(?=(\d{3})+(?!\d))|[a-z]+(?i:'s|'t)?",
  r" ?[^(\s|[.,!?(a+)+])]+",  # all of it is one set
  r"\(a+\)+",
  r"(a+|b){1,3}",
)
EXPONENTIAL = (
  "(a+)+$",
  "(a|aa)+c",
  "(?:a*)*",
  "((a{2,})b?){3,}",
  r"x(?<n>\p{L}+)*y",
  "(a|b){1,500}",
  "a" * 10_001,
)


@pytest.mark.parametrize("pattern", HARMLESS)
def test_patterns_in_use_are_harmless(pattern):
  assert not tokenizer_limits.has_repeated_choice(pattern)
  pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")


@pytest.mark.parametrize("pattern", EXPONENTIAL)
def test_patterns_of_exponential_time(pattern):
  assert tokenizer_limits.has_repeated_choice(pattern)


def test_our_own_pass():
  for tokenizer in (
    byte_tokenizer(),
    *(f.tokenizer() for f in FAMILIES.values()),
  ):
    tokenizer_limits.check(json.loads(tokenizer.core.to_str()))


def replace(length: int) -> dict:
  return {
    "type": "Replace",
    "pattern": {"String": " "},
    "content": "x" * length,
  }


def test_growth_is_the_product():
  steps = lambda *n: {"normalizer": {"normalizers": [replace(i) for i in n]}}
  tokenizer_limits.check(steps(1, 0, 3, 1))
  tokenizer_limits.check(steps(33, 30))
  with pytest.raises(ValueError, match="normalizer make more than 1000"):
    tokenizer_limits.check(steps(34, 30))
  with pytest.raises(ValueError, match="decoder make more than 1000"):
    tokenizer_limits.check({"decoder": {"decoders": [replace(1001)]}})


VOCAB = {"a": 0, "b": 1, "ab": 2, "##b": 3}


@pytest.mark.parametrize(
  "merge, prefix",
  [
    (["a", "c"], None),
    (["b", "a"], None),
    (["a", "b", "b"], None),
    (["a"], None),
    (["a", "b"], "##"),
    (["a", ["b"]], None),
    ("a b b", None),
    (7, None),
  ],
)
def test_merges_that_are_not_in_the_vocabulary(merge, prefix):
  model = {"vocab": VOCAB, "continuing_subword_prefix": prefix}
  for good in (["a", "b"], "a b") if prefix is None else (["a", "##b"],):
    tokenizer_limits.check({"model": model | {"merges": [good]}})
  with pytest.raises(ValueError, match="its merge .* is not in the vocabulary"):
    tokenizer_limits.check({"model": model | {"merges": [merge]}})


@pytest.mark.parametrize("number", [-1, 2**31, True, 1.0, None])
def test_ids_are_int32(number):
  tokenizer_limits.check({"model": {"vocab": {"a": 2**31 - 1}}})
  with pytest.raises(ValueError, match="token 'a' has the id"):
    tokenizer_limits.check({"model": {"vocab": {"a": number}}})


def test_what_the_library_gives_up_on_is_one_line():
  """A letter without a token; and time that no check can foresee."""
  words = tokenizers.Tokenizer(models.WordLevel({"<e>": 0}, unk_token="<u>"))

  class Panic(BaseException):
    pass

  Panic.__name__ = "PanicException"
  slow = Core(Panic("Onig: Regex search error:\nretry-limit-in-match over"))
  for core, why in ((words, "WordLevel error"), (slow, "error: retry-limit")):
    with pytest.raises(XpoError) as caught:
      Tokenizer(core, 0, None)._encoded("a")
    assert caught.value.code == Exit.DATA
    assert why in str(caught.value) and "\n" not in str(caught.value)
  with pytest.raises(KeyboardInterrupt):
    Tokenizer(Core(KeyboardInterrupt()), 0, None)._encoded("a")


class Core:
  """Stands for the library's tokenizer; its `encode` raises."""

  def __init__(self, error: BaseException):
    self.error = error

  def encode(self, text, add_special_tokens):
    raise self.error

  def no_truncation(self):
    pass

  def no_padding(self):
    pass
