"""Text <-> token ids.

Composition around `tokenizers.Tokenizer`. Text of a user or of a data set never
becomes a control id: `<|im_end|>` typed in a prompt is encoded as plain text.
Control ids are added as ids, by whoever renders a chat.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import functools
import hashlib
import json

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from xpo_jax.errors import data_error, usage_error

CONTROL_TOKENS = ("<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|unused|>")
CHAT_TEMPLATE = (
  "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
  "{{ message['content'] }}<|im_end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """A tokenizer and the ids that training and sampling need.

  Padding has no id here: masks come from places, never from ids.
  """

  core: tokenizers.Tokenizer
  eos_id: int
  bos_id: int | None  # None when the model adds none, even if it names one
  chat_template: str | None = None  # Jinja source

  def __post_init__(self):
    self.core.encode_special_tokens = True
    self.core.no_truncation()
    self.core.no_padding()

  def __reduce__(self):
    # A pickled core forgets encode_special_tokens; __post_init__ sets it again.
    fields = (self.core, self.eos_id, self.bos_id, self.chat_template)
    return Tokenizer, fields

  def encode(self, text: str) -> np.ndarray:
    """int32 [n] ids of the text alone: no BOS, no EOS, no control ids.

    Raises:
      XpoError: (65) a lone surrogate, or a byte outside the vocabulary (which
        the library would drop without a word).
    """
    try:
      raw = text.encode("utf-8")
    except UnicodeEncodeError as e:
      raise data_error(
        f"character {e.start} is the lone surrogate"
        f" U+{ord(text[e.start]):04X}; remove it"
      ) from e
    if self._missing_bytes and not self._missing_bytes.isdisjoint(raw):
      bad = [c for c in text if self._missing_bytes & set(c.encode("utf-8"))]
      raise data_error(
        f"character {text.index(bad[0])} is U+{ord(bad[0]):04X}, which this"
        " tokenizer cannot encode; remove it"
      )
    ids = self.core.encode(text, add_special_tokens=False).ids
    return np.asarray(ids, np.int32)

  def decode(self, ids: Iterable[int]) -> str:
    """The text of the ids, control ids left out."""
    return self.core.decode([int(i) for i in ids], skip_special_tokens=True)

  def control_id(self, text: str) -> int:
    """The id of a control token such as "<|im_end|>".

    Raises:
      XpoError: (64) there is no such control token.
    """
    if text not in self._control:
      raise usage_error(
        f"the tokenizer has no control token {text!r}; it has"
        f" {', '.join(sorted(self._control))}"
      )
    return self._control[text]

  @property
  def vocab_size(self) -> int:
    """One more than the largest id."""
    return self._vocab_size

  def fingerprint(self) -> str:
    """SHA-256 of all that decides ids and rendered chats."""
    parts = [self.core.to_str(), self.eos_id, self.bos_id, self.chat_template]
    return hashlib.sha256(json.dumps(parts).encode("utf-8")).hexdigest()

  @functools.cached_property
  def _control(self) -> dict[str, int]:
    added = self.core.get_added_tokens_decoder()
    return {t.content: i for i, t in added.items() if t.special}

  @functools.cached_property
  def _vocab_size(self) -> int:
    return max(self.core.get_vocab(with_added_tokens=True).values()) + 1

  @functools.cached_property
  def _missing_bytes(self) -> frozenset[int]:
    if not isinstance(self.core.decoder, decoders.ByteLevel):
      return frozenset()
    letters = enumerate(byte_letters())
    return frozenset(b for b, c in letters if self.core.token_to_id(c) is None)


def byte_letters() -> list[str]:
  """The printable letter that stands for each byte in byte-level BPE.

  Source: GPT-2 (Radford et al. 2019): printable Latin-1 bytes stand for
  themselves, the others follow in order from U+0100.
  """
  kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [b for b in range(256) if b not in kept]
  moved = {b: chr(256 + i) for i, b in enumerate(others)}
  return [moved.get(b, chr(b)) for b in range(256)]


def byte_tokenizer() -> Tokenizer:
  """Ids 0..255 are bytes, then the control tokens; EOS 256, no BOS."""
  vocab = {letter: b for b, letter in enumerate(byte_letters())}
  core = byte_level(models.BPE(vocab=vocab, merges=[]))
  return _with_control_tokens(core)


def train_bpe(texts: Sequence[str], vocab_size: int) -> Tokenizer:
  """Trains byte-level BPE; control tokens first, then bytes, then merges.

  Args:
    texts: training texts.
    vocab_size: wanted size, >= 260; fewer merges are made if the texts do not
      hold enough repeated pairs.

  Raises:
    XpoError: (64) vocab_size too small.
  """
  least = len(CONTROL_TOKENS) + 256
  if vocab_size < least:
    raise usage_error(
      f"vocab_size={vocab_size}: byte-level BPE needs at least {least}"
    )
  core = byte_level(models.BPE())
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=list(CONTROL_TOKENS),
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  core.train_from_iterator(texts, trainer=trainer)
  return _with_control_tokens(core)


def _with_control_tokens(core: tokenizers.Tokenizer) -> Tokenizer:
  core.add_special_tokens([control_token(t) for t in CONTROL_TOKENS])
  eos = core.token_to_id(CONTROL_TOKENS[0])
  return Tokenizer(core, eos, None, CHAT_TEMPLATE)


def control_token(text: str) -> tokenizers.AddedToken:
  """A token that only its id means, never a text that looks like it."""
  return tokenizers.AddedToken(text, special=True, normalized=False)


def byte_level(model, digits: bool = True) -> tokenizers.Tokenizer:
  """Byte-level BPE; with `digits` every digit is a token of its own."""
  core = tokenizers.Tokenizer(model)
  split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
  if digits:
    alone = pre_tokenizers.Digits(individual_digits=True)
    split = pre_tokenizers.Sequence([alone, split])
  core.pre_tokenizer = split
  core.decoder = decoders.ByteLevel()
  return core
