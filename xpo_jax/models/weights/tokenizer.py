"""Text <-> token ids.

Composition around `tokenizers.Tokenizer`. Text of a user or of a data set never
becomes a control id: `<|im_end|>` typed in a prompt is encoded as plain text.
Control ids are added as ids, by whoever renders a chat.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import functools
import hashlib
import itertools
import json
import re

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from xpo_jax.errors import data_error, usage_error

META_SPACE = "\u2581"  # a space in SentencePiece's vocabularies
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
  template_file: str = "tokenizer_config.json"  # where it is, for messages
  template_date: str = ""  # what it takes for today, as 2024-07-26
  trained_with: str = ""  # data.template of the run that trained the model

  def __post_init__(self):
    self.core.encode_special_tokens = True
    self.core.no_truncation()
    self.core.no_padding()

  def __reduce__(self):
    # A pickled core forgets encode_special_tokens; __post_init__ sets it again.
    names = (f.name for f in dataclasses.fields(self))
    return Tokenizer, tuple(getattr(self, name) for name in names)

  def encode(self, text: str, after: str = "start") -> np.ndarray:
    """int32 [n] ids of the text alone: no BOS, no EOS, no control ids.

    Args:
      text: any text.
      after: what is before it: start (nothing), control (an id) or text. Some
        vocabularies write a space before a text's first word, not before what
        follows other text.

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
    if after == "start" or not self._space_after[after]:
      return self._ids(text)
    head, ids = self._ids("\n"), self._ids(f"\n{text}")
    if not np.array_equal(ids[: len(head)], head):
      return self._ids(text)
    return ids[len(head) :]

  def _ids(self, text: str) -> np.ndarray:
    found = self._encoded(text)
    ids = np.asarray(found.ids, np.int32)
    if self._control_set.isdisjoint(found.ids):
      return ids
    # Plain merges, or a word of a unigram model, gave a control id: each such
    # text is encoded in two parts, its first character and the rest.
    spans = zip(found.ids, found.offsets, strict=True)
    wrong = [span for i, span in spans if i in self._control_set]
    if any(end - start < 2 for start, end in wrong):
      raise data_error(
        f"character {wrong[0][0]} alone is a control token of this tokenizer;"
        " remove it"
      )
    cuts = [0, *(start + 1 for start, _ in wrong), len(text)]
    parts = [text[a:b] for a, b in itertools.pairwise(cuts)]
    first, *rest = (part for part in parts if part)
    return np.concatenate(
      [self._ids(first), *(self.encode(part, "text") for part in rest)]
    )

  def _encoded(self, text: str) -> tokenizers.Encoding:
    try:
      return self.core.encode(text, add_special_tokens=False)
    except BaseException as e:
      # A bare Exception for an unknown letter; one of its own kind, which is
      # no Exception, when a pattern has tried for too long.
      known = isinstance(e, Exception) or type(e).__name__ == "PanicException"
      if not known:
        raise
      raise data_error(
        f"this tokenizer cannot encode a text of {len(text)} characters ("
        f"{' '.join(str(e).split()):.200}); mend it, or drop the text"
      ) from e

  def decode(self, ids: Iterable[int]) -> str:
    """The text of the ids, control ids left out."""
    return self.core.decode([int(i) for i in ids], skip_special_tokens=True)

  def control_id(self, text: str) -> int:
    """The id of a control token such as "<|im_end|>".

    Raises:
      XpoError: (64) there is no such control token.
    """
    if text not in self.control_ids:
      raise usage_error(
        f"the tokenizer has no control token {text!r}; it has"
        f" {', '.join(sorted(self.control_ids))}"
      )
    return self.control_ids[text]

  @property
  def vocab_size(self) -> int:
    """One more than the largest id."""
    return self._vocab_size

  def fingerprint(self) -> str:
    """SHA-256 of all that decides ids and rendered chats."""
    parts = [self.core.to_str(), self.eos_id, self.bos_id, self.chat_template]
    parts += [self.template_date] if self.template_date else []
    return hashlib.sha256(json.dumps(parts).encode("utf-8")).hexdigest()

  @functools.cached_property
  def control_ids(self) -> dict[str, int]:
    """Every control token's id by its text."""
    added = self.core.get_added_tokens_decoder()
    return {t.content: i for i, t in added.items() if t.special}

  @functools.cached_property
  def _control_set(self) -> frozenset[int]:
    return frozenset(self.control_ids.values())

  @functools.cached_property
  def control_pattern(self) -> re.Pattern:
    """One group that matches any control token's text, the longest first."""
    texts = sorted(self.control_ids, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, texts)) or '(?!)'})")

  @functools.cached_property
  def strips(self) -> dict[int, tuple[bool, bool]]:
    """Control ids that swallow the blanks (before, after) them."""
    added = self.core.get_added_tokens_decoder().items()
    flags = {i: (t.lstrip, t.rstrip) for i, t in added if t.special}
    return {i: both for i, both in flags.items() if any(both)}

  @functools.cached_property
  def _space_after(self) -> dict[str, bool]:
    """Whether a space of the vocabulary's own is to be left out there."""
    first = lambda tokens: tokens[:1] and tokens[0][:1] in (META_SPACE, "Ġ")
    adds = bool(first(self._encoded("ab").tokens))
    control = min(self.control_ids, key=self.control_ids.get, default=None)
    if not adds or control is None:
      return {"text": adds, "control": False}
    self.core.encode_special_tokens = False
    try:
      found = self.core.encode(f"{control}ab", add_special_tokens=False).tokens
    finally:
      self.core.encode_special_tokens = True
    return {"text": True, "control": not first(found[1:])}

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
