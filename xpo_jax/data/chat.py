"""A chat template as ids, so that no text of a user becomes a control token.

A conversation is rendered twice: once with a mark in place of every content,
which shows what the template itself writes and where, and once as it is. The
two must agree; then the control tokens are those of the template alone, and
all text between two of them is encoded without any.

The prompt ends where the rendering that asks for an answer ends. That must be
how the rendering with the answer begins, or it is refused: what follows is the
completion, up to the control token that ends the turn. So nothing is searched
for in ids, and nothing across this border is encoded together.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import functools
import itertools
import re

import numpy as np

from xpo_jax.data import template_process
from xpo_jax.data.records import DOCUMENT, Group, Message, Prompt
from xpo_jax.errors import XpoError, checkpoint_error, usage_error

# A private-use character and a number in braces: no template writes these, and
# what a user writes never meets them.
_MARK = re.compile("\ue100([0-9]+)\ue101")
_AHEAD = 32  # groups whose texts are rendered at once
_PLAIN = "use data.template='plain'"

Part = str | int  # text of the template, or the number of a message
Piece = str | int  # text, or a control id


@dataclasses.dataclass(frozen=True)
class Skeleton:
  """What the template writes around the contents of turns with these roles."""

  prompt: tuple[Part, ...]
  before: str  # between the prompt and the answer
  tail: str  # after the answer
  after: str  # the text in `tail` before the control token `end`
  end: int


@dataclasses.dataclass(frozen=True)
class Chat:
  """Conversations as ids. `end_id` ends every turn of the assistant."""

  tokenizer: object
  name: str  # where the template comes from
  end_id: int
  skeleton: Callable[[tuple[str, ...]], Skeleton]
  texts: template_process.Texts

  def ahead(self, groups: Iterable[Group]) -> Iterator[Group]:
    """The groups themselves, their texts asked for some groups at a time."""
    groups = iter(groups)
    while some := list(itertools.islice(groups, _AHEAD)):
      asked = []
      for group in (g for g in some if g.prompt != DOCUMENT):
        turns = as_messages(group.prompt)
        asked.append((turns, True))
        asked += [(_answered(turns, c), False) for c in group.completions]
      self.texts.ask_ahead(asked)
      yield from some

  def prompt(self, messages: tuple[Message, ...]) -> np.ndarray:
    """int32 ids of a conversation up to where the assistant's answer begins.

    Raises:
      XpoError: the template refuses it, or what the template wrote itself
        cannot be told from the contents.
    """
    text = self.texts.get(messages, True)
    pieces = self._pieces(
      text, self._of(messages).prompt, [m.content for m in messages]
    )
    ids = np.concatenate(self._encode(pieces) or [np.zeros(0, np.int32)])
    bos = self.tokenizer.bos_id
    while bos is not None and ids[:2].tolist() == [bos, bos]:
      ids = ids[1:]
    return ids

  def completion(
    self, messages: tuple[Message, ...], texts: Sequence[str]
  ) -> list[np.ndarray]:
    """int32 ids of each of the texts that make an answer, without `end_id`.

    What the template writes around an answer belongs to the first and to the
    last of them.

    Raises:
      XpoError: as `prompt`, or the prompt is no prefix of the whole.
    """
    skeleton, prompt = self._of(messages), self.texts.get(messages, True)
    whole = self.texts.get(_answered(messages, "".join(texts)), False)
    if not whole.startswith(prompt):
      raise _no_prefix(self.name)
    rest = whole[len(prompt) :]
    last = (self._split(skeleton.prompt[-1]) or [""])[-1]
    control = isinstance(last, int)
    kept = self._kept(rest, skeleton, "".join(texts))
    if kept is None:
      return [self._rewritten(rest, skeleton, texts, control)]
    out = []
    for k, text in enumerate(_within("".join(texts), kept, texts)):
      pieces = [text] if text else []
      if text and k == 0:
        pieces = [*self._split(skeleton.before), text]
      if text and k == len(texts) - 1:
        pieces.append(skeleton.after)
      first = "control" if control and k == 0 else "text"
      parts = self._encode(pieces, first)
      out.append(np.concatenate(parts or [np.zeros(0, np.int32)]))
    return out

  def _of(self, messages) -> Skeleton:
    found = self.skeleton(tuple(m.role for m in messages))
    if found.end != self.end_id:
      raise checkpoint_error(
        f"{self.name}: the chat template ends this conversation with another"
        f" control token than others; {_PLAIN}"
      )
    return found

  def _kept(self, rest: str, skeleton: Skeleton, answer: str) -> str | None:
    """The answer as the template kept it; None if it rewrote more."""
    wrap = lambda text: skeleton.before + text + skeleton.tail
    found = (text for text in _variants(answer) if wrap(text) == rest)
    return next(found, None)

  def _rewritten(self, rest, skeleton, texts, control) -> np.ndarray:
    """An answer that the template took apart, say into thoughts and words."""
    inner = rest.removesuffix(skeleton.tail)
    if len(texts) > 1 or inner == rest:
      raise _unclear(self.name)
    pieces = self._by_control(inner, skeleton.before, texts)
    parts = self._encode(
      [*pieces, skeleton.after], "control" if control else "text"
    )
    return np.concatenate(parts)

  def _pieces(
    self, text: str, parts: Sequence[Part], contents: Sequence[str]
  ) -> list[Piece]:
    """A rendering as text and control ids; the latter from `parts` alone."""
    pieces, at = [], 0
    for part, after in zip(parts, (*parts[1:], ""), strict=True):
      if isinstance(part, str):
        if not text.startswith(part, at):
          break
        pieces += self._split(part)
        at += len(part)
        continue
      literal = after if isinstance(after, str) else ""
      for content in _variants(contents[part]):
        if text.startswith(content + literal, at):
          pieces.append(content)
          at += len(content)
          break
      else:
        break
    else:
      if at == len(text):
        return pieces
    written = "".join(p for p in parts if isinstance(p, str))
    return self._by_control(text, written, contents)

  def _by_control(
    self, text: str, written: str, contents: Sequence[str]
  ) -> list[Piece]:
    """The same for contents that the template rewrote.

    Exact if no content spells a control token and the text has just those that
    the template writes around marks: then they are its own.
    """
    control = lambda t: [p for p in self._split(t) if isinstance(p, int)]
    if any(control(c) for c in contents) or control(text) != control(written):
      raise _unclear(self.name)
    return self._split(text)

  def _split(self, text: str) -> list[Piece]:
    return split(text, self.tokenizer)

  def _encode(self, pieces: list[Piece], first="start") -> list[np.ndarray]:
    return encode(pieces, self.tokenizer, first)


def make_chat(tokenizer) -> Chat:
  """The tokenizer's chat template, tried on two conversations.

  Raises:
    XpoError: (64) the tokenizer has no template; (66) it cannot be rendered,
      or it cannot be told which ids it asks for.
  """
  if not tokenizer.chat_template:
    raise usage_error(
      "data.template='chat': the tokenizer has no chat template; use"
      " data.template='plain'"
    )
  name = tokenizer.template_file
  text_of = lambda i: "" if i is None else tokenizer.core.id_to_token(i)
  renderer = template_process.shared(
    tokenizer.chat_template,
    name,
    text_of(tokenizer.bos_id),
    text_of(tokenizer.eos_id),
    tokenizer.template_date,
  )

  @functools.lru_cache(None)
  def skeleton(roles):
    marks = [f"\ue100{i}\ue101" for i in range(len(roles) + 1)]
    turns = tuple(map(Message, (*roles, "assistant"), marks))
    asked, whole = renderer.render([(turns[:-1], True), (turns, False)])
    return _skeleton(asked, whole, len(roles), name, tokenizer)

  end = skeleton(("user",)).end
  skeleton(("user", "assistant", "user"))
  return Chat(
    tokenizer=tokenizer,
    name=name,
    end_id=end,
    skeleton=skeleton,
    texts=template_process.Texts(renderer),
  )


def as_messages(prompt: Prompt) -> tuple[Message, ...]:
  """A text is one turn of a user."""
  return (Message("user", prompt),) if isinstance(prompt, str) else prompt


def _answered(
  messages: tuple[Message, ...], answer: str
) -> tuple[Message, ...]:
  return (*messages, Message("assistant", answer))


def _skeleton(
  asked: str, whole: str, count: int, name: str, tokenizer
) -> Skeleton:
  for text, turns in ((asked, count), (whole, count + 1)):
    if sorted(map(int, _MARK.findall(text))) != list(range(turns)):
      raise checkpoint_error(
        f"{name}: the chat template leaves a turn out of what it writes, or"
        f" writes it twice; {_PLAIN}"
      )
  if not whole.startswith(asked):
    raise _no_prefix(name)
  before, answer, tail = _parts(whole[len(asked) :])
  text, *control = [*split(tail, tokenizer), ""][:2]
  if isinstance(text, int):
    text, control = "", [text]
  if answer != count or not isinstance(control[0], int):
    raise checkpoint_error(
      f"{name}: the chat template ends the assistant's turn with no control"
      f" token of the vocabulary; {_PLAIN}"
    )
  return Skeleton(tuple(_parts(asked)), before, tail, text, control[0])


def _parts(text: str) -> list[Part]:
  """Text and marks in turn, text first and last."""
  return [int(x) if i % 2 else x for i, x in enumerate(_MARK.split(text))]


def split(text: str, tokenizer) -> list[Piece]:
  """Text with its control tokens as ids; no empty pieces."""
  ids = tokenizer.control_ids
  pieces = tokenizer.control_pattern.split(text)
  return [ids.get(x, x) for x in pieces if x]


def encode(
  pieces: Sequence[Piece], tokenizer, first: str = "start"
) -> list[np.ndarray]:
  """int32 ids of pieces; neighbouring texts are one.

  Args:
    pieces: texts and control ids.
    tokenizer: `encode`, `strips`.
    first: what is before them: start (nothing), control (an id) or text.
  """
  runs = []
  for piece in pieces:
    if runs and isinstance(piece, str) and isinstance(runs[-1], str):
      runs[-1] += piece
    else:
      runs.append(piece)
  out = []
  for before, run, after in zip(
    (None, *runs), runs, (*runs[1:], None), strict=False
  ):
    if isinstance(run, int):
      out.append(np.array([run], np.int32))
      continue
    if tokenizer.strips.get(before, (False, False))[1]:
      run = run.lstrip()
    if tokenizer.strips.get(after, (False, False))[0]:
      run = run.rstrip()
    place = first if before is None else "control"
    out.append(tokenizer.encode(run, place) if run else np.zeros(0, np.int32))
  return out


def _variants(text: str) -> list[str]:
  """The text as it is, and with its ends cut as templates cut them."""
  cut = lambda chars: (
    text.lstrip(chars),
    text.rstrip(chars),
    text.strip(chars),
  )
  return list(dict.fromkeys((text, *cut("\n"), *cut(None))))


def _within(whole: str, kept: str, texts: Sequence[str]) -> list[str]:
  """The parts of `kept`, which is `whole` with its ends cut, text by text."""
  start, out, at = whole.index(kept), [], 0
  for text in texts:
    low, high = at - start, at + len(text) - start
    out.append(kept[max(low, 0) : max(high, 0)])
    at += len(text)
  return out


def _no_prefix(name: str) -> XpoError:
  return checkpoint_error(
    f"{name}: what the chat template writes for a prompt is not how it begins"
    f" the prompt with its answer, so the completion is unclear; {_PLAIN}"
  )


def _unclear(name: str) -> XpoError:
  return checkpoint_error(
    f"{name}: the chat template rewrites this conversation so that its control"
    f" tokens cannot be told from the text's; {_PLAIN}"
  )
