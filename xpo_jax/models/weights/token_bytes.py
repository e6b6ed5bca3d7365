"""The bytes of every token: what its id adds to a text."""

import re

from tokenizers import decoders

from xpo_jax.models.weights.tokenizer import (
  META_SPACE,
  Tokenizer,
  byte_letters,
)

_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
  """One entry an id; b"" for control tokens and ids without a token.

  Those of a completion, joined, are its text in UTF-8, but for a space that
  some vocabularies write before a text's first word.
  """
  core = tokenizer.core
  added = core.get_added_tokens_decoder()
  pieces = [b""] * tokenizer.vocab_size
  if isinstance(core.decoder, decoders.ByteLevel):
    byte = {letter: bytes([b]) for b, letter in enumerate(byte_letters())}
    read = lambda text: b"".join(byte.get(c) or c.encode("utf-8") for c in text)
  else:
    read = _piece
  for text, i in core.get_vocab(with_added_tokens=True).items():
    if i not in added:
      pieces[i] = read(text)
    elif not added[i].special:
      pieces[i] = added[i].content.encode("utf-8")
  return pieces


def _piece(text: str) -> bytes:
  """A piece of a SentencePiece vocabulary."""
  byte = _BYTE.fullmatch(text)
  if byte:
    return bytes([int(byte[1], 16)])
  return text.replace(META_SPACE, " ").encode("utf-8")
