"""A chat template as ids around contents, so that no text becomes control.

The template is rendered on probe conversations only. The literal text between
the probes' contents is turned into ids once; real conversations are assembled
from these parts and the separately encoded contents.
"""

import dataclasses
import re

import numpy as np

from xpo_jax.data.records import Message
from xpo_jax.errors import XpoError, checkpoint_error, usage_error

# Private-use characters: no template writes them by itself.
_BOS, _EOS = "\ue0f0", "\ue0f1"
_CONTROL = re.compile(
  rf"({_BOS}|{_EOS}|<\|[^<>\s]+\|>|<[^<>|\s]+>|\[/?[A-Z_]+\])"
)


@dataclasses.dataclass(frozen=True)
class ChatParts:
  """Ids between the contents of a conversation."""

  opening: tuple[int, ...]  # to the first user content (a default system too)
  system: tuple[int, ...]  # to the content of a given system turn
  system_to_user: tuple[int, ...]
  user_to_assistant: tuple[int, ...]
  assistant_to_user: tuple[int, ...]
  end: int  # ends an assistant turn
  trimmed: bool  # the template strips contents


def chat_parts(tokenizer) -> ChatParts:
  """The parts of the tokenizer's chat template.

  Raises:
    XpoError: (64) the tokenizer has no template; (66) it cannot be rendered,
      or what stands around a content depends on the conversation.
  """
  if not tokenizer.chat_template:
    raise usage_error(
      "data.template='chat': the tokenizer has no chat template; use"
      " data.template='plain'"
    )
  names = [f"\ue100{i}\ue101" for i in range(4)]
  roles = ("user", "assistant", "user", "assistant")
  turns = list(zip(roles, (f" {n} " for n in names), strict=True))
  text = _render(tokenizer.chat_template, turns)
  trimmed = f" {names[0]} " not in text
  if not trimmed:
    names = [f" {n} " for n in names]
  around = _split(text, names)
  opening, first, middle, second, tail = around
  prompt = _split(_render(tokenizer.chat_template, turns[:1], True), names[:1])
  given = [("system", turns[3][1]), *turns[:2]]
  system = _split(
    _render(tokenizer.chat_template, given), [names[3], names[0], names[1]]
  )
  ids = [_ids(part, tokenizer) for part in (opening, first, middle, tail)]
  separable = (
    first == second
    and prompt == [opening, first]
    and system[2:] == [first, tail]
    and bool(ids[3])
    and ids[2][:1] == ids[3][:1]
    and _is_control(ids[3][0], tail, tokenizer)
  )
  if not separable:
    raise checkpoint_error(
      "chat template: what it writes around a turn depends on the conversation,"
      " or a turn ends with no control token; use data.template='plain'"
    )
  return ChatParts(
    opening=ids[0],
    system=_ids(system[0], tokenizer),
    system_to_user=_ids(system[1], tokenizer),
    user_to_assistant=ids[1],
    assistant_to_user=ids[2],
    end=ids[3][0],
    trimmed=trimmed,
  )


def prompt_ids(
  messages: tuple[Message, ...], parts: ChatParts, tokenizer
) -> np.ndarray:
  """int32 ids of a conversation up to the start of the next assistant turn."""
  pieces = []
  if messages[0].role == "system":
    pieces += [parts.system, _content(messages[0], parts, tokenizer)]
    pieces += [parts.system_to_user]
    messages = messages[1:]
  else:
    pieces += [parts.opening]
  for message in messages:
    pieces.append(_content(message, parts, tokenizer))
    user = message.role == "user"
    pieces.append(parts.user_to_assistant if user else parts.assistant_to_user)
  return np.concatenate([np.asarray(p, np.int32) for p in pieces])


def _content(message: Message, parts: ChatParts, tokenizer) -> np.ndarray:
  text = message.content.strip() if parts.trimmed else message.content
  return tokenizer.encode(text)


def _render(template: str, turns: list[tuple[str, str]], cue=False) -> str:
  import jinja2
  from jinja2.sandbox import ImmutableSandboxedEnvironment

  def refuse(message):
    raise jinja2.TemplateError(str(message))

  box = ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=["jinja2.ext.loopcontrols"],
  )
  box.globals["raise_exception"] = refuse
  try:
    return box.from_string(template).render(
      messages=[{"role": r, "content": c} for r, c in turns],
      add_generation_prompt=cue,
      bos_token=_BOS,
      eos_token=_EOS,
    )
  except (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
  ) as e:
    raise checkpoint_error(
      f"chat template: cannot be rendered ({type(e).__name__}: {e}); use"
      " data.template='plain'"
    ) from e


def _split(text: str, names: list[str]) -> list[str]:
  """The texts before, between and after the names, each there once."""
  parts = []
  for name in names:
    before, found, text = text.partition(name)
    if not found or name in text:
      raise checkpoint_error(
        "chat template: a turn is missing from what it writes, or is there"
        " twice; use data.template='plain'"
      )
    parts.append(before)
  return [*parts, text]


def _ids(literal: str, tokenizer) -> tuple[int, ...]:
  """Ids of template text: control tokens as ids, the rest encoded."""
  ids, plain = [], ""
  for piece in _CONTROL.split(literal):
    control = _control_ids(piece, tokenizer)
    if control is None:
      plain += piece
      continue
    ids += [*tokenizer.encode(plain).tolist(), *control]
    plain = ""
  return (*ids, *tokenizer.encode(plain).tolist())


def _control_ids(piece: str, tokenizer) -> list[int] | None:
  if piece == _BOS:
    return [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  if piece == _EOS:
    return [tokenizer.eos_id]
  if not _CONTROL.fullmatch(piece):
    return None
  try:
    return [tokenizer.control_id(piece)]
  except XpoError:  # looks like one, is none: plain text of the template
    return None


def _is_control(first: int, literal: str, tokenizer) -> bool:
  found = _CONTROL.match(literal)
  return found is not None and _control_ids(found[0], tokenizer) == [first]
