"""Conversations: chat messages, and whole dialogues written as one text."""

import collections
import re

from xpo_jax.data.records import ROLES, BadRow, Message, Prompt

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLE = {"Human": "user", "Assistant": "assistant"}
NAME = {"user": "Human", "assistant": "Assistant"}


def is_dialogue(text: object) -> bool:
  """True for a text of the form "\\n\\nHuman: ...\\n\\nAssistant: ..."."""
  return isinstance(text, str) and text.startswith("\n\nHuman:")


def parse_dialogue(
  text: str, notes: collections.Counter
) -> tuple[Message, ...]:
  """Turns of a dialogue text, without the space after each colon.

  Consecutive turns of one side are one turn, joined by a blank line and
  counted in `notes` as merged_turns.
  """
  parts = _TURN.split(text)
  turns: list[Message] = []
  for name, content in zip(parts[1::2], parts[2::2], strict=True):
    role, content = _ROLE[name], content.removeprefix(" ")
    if turns and turns[-1].role == role:
      notes["merged_turns"] += 1
      content = f"{turns.pop().content}\n\n{content}"
    turns.append(Message(role, content))
  return tuple(turns)


def as_text(prompt: Prompt, cue: bool = True) -> str:
  """A prompt as one text, messages in the form that `parse_dialogue` reads.

  Args:
    prompt: a text is left as it is.
    cue: messages end in "\n\nAssistant:", which asks for the answer.
  """
  if isinstance(prompt, str):
    return prompt
  lines = [
    m.content if m.role == "system" else f"\n\n{NAME[m.role]}: {m.content}"
    for m in prompt
  ]
  return "".join(lines) + (f"\n\n{NAME['assistant']}:" if cue else "")


def parse_messages(value: object, what: str) -> tuple[Message, ...]:
  """Chat messages from a row, roles and contents checked.

  The order is an optional system turn, then user and assistant in turn. A
  lone assistant message is fine: it is a completion.
  """
  if not isinstance(value, list) or not value:
    raise BadRow(
      "bad_message",
      f"{what} is {_kind(value)}; want text or a list of"
      ' {"role": ..., "content": ...}',
    )
  messages = tuple(_message(m, f"{what}[{i}]") for i, m in enumerate(value))
  if len(messages) > 1 or messages[0].role != "assistant":
    _check_order(messages, what)
  return messages


def _message(value: object, what: str) -> Message:
  if not isinstance(value, dict) or not {"role", "content"} <= value.keys():
    raise BadRow(
      "bad_message", f'{what} is no {{"role": ..., "content": ...}} message'
    )
  role, content = value["role"], value["content"]
  if role not in ROLES:
    raise BadRow(
      "unknown_role", f"{what}.role {role!r}; allowed: {', '.join(ROLES)}"
    )
  if not isinstance(content, str):
    raise BadRow(
      "bad_message", f"{what}.content is {_kind(content)}; want a text"
    )
  return Message(role, content)


def _check_order(messages: tuple[Message, ...], what: str) -> None:
  turns = messages[1:] if messages[0].role == "system" else messages
  skipped = len(messages) - len(turns)
  for i, turn in enumerate(turns):
    want = ("user", "assistant")[i % 2]
    if turn.role != want:
      raise BadRow(
        "role_order",
        f"{what}[{i + skipped}] has role {turn.role}, want {want}: roles are"
        " an optional system, then user and assistant in turn",
      )


def _kind(value: object) -> str:
  names = {dict: "an object", list: "a list", type(None): "null", str: "a text"}
  return names.get(type(value), f"{value!r}"[:40])
