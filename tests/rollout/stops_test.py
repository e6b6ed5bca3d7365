"""Stop strings against a plain search in the joined text."""

import numpy as np
import pytest
from tokenizers import Tokenizer as Core
from tokenizers import decoders, models

from xpo_jax.errors import XpoError
from xpo_jax.models.weights.token_bytes import token_bytes
from xpo_jax.models.weights.tokenizer import (
  Tokenizer,
  byte_tokenizer,
  train_bpe,
)
from xpo_jax.rollout import stops


def first_hit(table, tokens):
  """How many tokens are fed until the automaton stops, or None."""
  state = 0
  for n, token in enumerate(tokens, 1):
    state, hit = stops.follow(table, np.int32(state), np.int32(token))
    if hit:
      return n
  return None


@pytest.mark.parametrize(
  "texts",
  [["aab"], ["ab", "aab"], ["abab", "ba"], ["aaa", "abb", "b"], ["cab", "ab"]],
)
def test_it_stops_at_the_token_that_completes_the_first_stop(texts):
  pieces = [b"a", b"b", b"c", b"ab", b"ba", b"aab", b"", b"ca", b"bab"]
  table = stops.stop_table(pieces, texts)
  assert table.shape[1] == len(pieces)
  noise, hits = np.random.default_rng(0), 0
  for _ in range(60):
    tokens = noise.integers(0, len(pieces), 7)
    text, wanted = "", None
    for n, token in enumerate(tokens, 1):
      text += pieces[token].decode()
      if any(stop in text for stop in texts):
        wanted = n
        break
    assert first_hit(table, tokens) == wanted
    hits += wanted is not None
  assert hits > 5


def test_no_table_never_stops():
  state, hit = stops.follow(None, np.zeros(2, int), np.ones(2, int))
  assert state.tolist() == [0, 0] and not hit.any()


def test_the_text_is_cut_before_the_earliest():
  assert stops.cut("one two three", ["three", "two"]) == "one "
  assert stops.cut("one", ["two"]) == "one"


@pytest.mark.parametrize("bad", ["", 3, None])
def test_an_empty_stop_is_an_error(bad):
  with pytest.raises(XpoError, match="stop="):
    stops.stop_table([b"a"], [bad])


TEXT = "Der Bär — naïve: 12 \t\n¶ 🙂 end"


@pytest.mark.parametrize(
  "make", [byte_tokenizer, lambda: train_bpe([TEXT] * 3, 300)]
)
def test_bytes_of_byte_level_tokens_join_to_the_text(make):
  tokenizer = make()
  pieces = token_bytes(tokenizer)
  ids = tokenizer.encode(TEXT)
  assert b"".join(pieces[i] for i in ids).decode() == TEXT
  assert len(pieces) == tokenizer.vocab_size
  assert pieces[tokenizer.eos_id] == b""


def test_bytes_of_sentence_pieces():
  words = ["<unk>", "</s>", "\u2581the", "\u2581", "x", "<0xF0>", "<0x0A>"]
  core = Core(models.Unigram([(w, -1.0) for w in words], unk_id=0))
  core.decoder = decoders.Metaspace()
  core.add_special_tokens(["</s>"])
  core.add_tokens(["\u2581as it is"])
  pieces = token_bytes(Tokenizer(core, 1, None))
  assert pieces[1:7] == [b"", b" the", b" ", b"x", b"\xf0", b"\n"]
  assert pieces[7] == "\u2581as it is".encode()
