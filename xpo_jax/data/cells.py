"""Single cells of a row: prompts, completions, numbers and lists, checked."""

import collections
import math

from xpo_jax.data import dialogues
from xpo_jax.data.records import BadRow, Group, Message, Prompt

# A completion that is only an end marker teaches nothing.
_END_TEXTS = ("</s>", "<eos>", "<|endoftext|>", "<|im_end|>", "<|eot_id|>")
Notes = collections.Counter


def group(row, row_id, prompt: Prompt, texts, feedback, kind) -> Group | str:
  """The last checks that every layout with a prompt shares."""
  last = prompt if isinstance(prompt, str) else prompt[-1].content
  if not last.strip():
    raise BadRow("empty_prompt", "the prompt is empty; give it a text")
  if dialogues.is_dialogue(row.get("prompt")):
    # "...\n\nAssistant:" + " text": the template puts that space back.
    texts = [text.removeprefix(" ") for text in texts]
  stripped = [text.strip() for text in texts]
  if any(map(says_nothing, texts)):
    return "empty"
  if len(texts) > 1 and len(set(texts)) == 1:
    return "identical"
  if len(texts) > 1 and len(set(stripped)) == 1:
    return "identical_after_trunc"
  return Group(
    row_id,
    prompt,
    tuple(texts),
    tuple(feedback),
    kind,
    ended=ended(row, len(texts)),
  )


def ended(row: dict, count: int) -> tuple[bool, ...]:
  """The optional column `ended`: a bool a completion, in the group's order.

  A sole completion has a bool. No column, null and all True are ().
  """
  value = row.get("ended")
  if value is None or not count:
    return ()
  found = value if isinstance(value, list) else [value]
  if len(found) != count or not all(isinstance(v, bool) for v in found):
    want = "true or false" if count == 1 else f"a list of {count} true or false"
    raise BadRow("bad_ended", f"ended is {value!r:.40}; want {want}")
  return () if all(found) else tuple(found)


def says_nothing(text: str) -> bool:
  """Blank, or nothing but an end marker."""
  return not text.strip() or text.strip() in _END_TEXTS


def side(
  value: object, what: str, notes: Notes
) -> tuple[tuple[Message, ...] | None, str]:
  """(the prompt it carries or None, completion) of chosen or rejected."""
  if isinstance(value, str) and not dialogues.is_dialogue(value):
    return None, value
  messages = (
    dialogues.parse_dialogue(value, notes)
    if isinstance(value, str)
    else dialogues.parse_messages(value, what)
  )
  if messages[-1].role != "assistant":
    raise BadRow("no_target", f"{what} does not end with an assistant turn")
  return messages[:-1] or None, messages[-1].content


def prompt(value: object, notes: Notes) -> Prompt:
  """A text, or the messages of a chat or dialogue without the answer's cue."""
  if isinstance(value, str) and not dialogues.is_dialogue(value):
    return value
  if isinstance(value, str):
    messages = dialogues.parse_dialogue(value, notes)
    if messages[-1] == Message("assistant", ""):  # the cue to answer
      messages = messages[:-1]
  else:
    messages = dialogues.parse_messages(value, "prompt")
  if messages[-1].role != "user":
    raise BadRow("role_order", "the prompt does not end with a user turn")
  return messages


def joint_prompt(
  given: object, carried: tuple[Message, ...] | None, notes: Notes
) -> Prompt:
  """The prompt column and the prompt inside the completions, reconciled."""
  if carried is None:
    if given is None:
      raise BadRow(
        "missing_column",
        "no column 'prompt', and chosen carries no prompt: it is neither a"
        " dialogue (\\n\\nHuman: ...) nor a list of several messages",
      )
    return prompt(given, notes)
  if given is None:
    return carried
  own = prompt(given, notes)
  same = (
    any(m.role == "user" and m.content == own for m in carried)
    if isinstance(own, str)
    else own == carried
  )
  if not same:
    raise BadRow(
      "different_prompts", "prompt and the turns inside chosen differ; keep one"
    )
  return carried


def completion(value: object, what: str) -> str:
  """A text, or the content of one assistant message."""
  if isinstance(value, str):
    return value
  messages = dialogues.parse_messages(value, what)
  if len(messages) != 1:
    raise BadRow("bad_message", f"{what} has {len(messages)} messages; want 1")
  return messages[0].content


def number(value: object, what: str) -> float:
  """A finite number."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise BadRow("bad_number", f"{what} is {value!r:.40}; want a number")
  try:
    found = float(value)
  except OverflowError:
    found = math.inf
  if not math.isfinite(found):
    raise BadRow("bad_number", f"{what} is {found}; want a finite number")
  return found


def lists(row: dict, *names: str) -> list[list]:
  """Columns that are lists of one length."""
  found = [row[name] for name in names]
  for name, value in zip(names, found, strict=True):
    if not isinstance(value, list):
      raise BadRow("bad_list", f"{name} is {value!r:.40}; want a list")
  for name, value in zip(names[1:], found[1:], strict=True):
    if len(value) != len(found[0]):
      raise BadRow(
        "bad_list", f"{len(found[0])} {names[0]} but {len(value)} {name}"
      )
  return found


def completions(values: list, what: str = "completions") -> list[str]:
  """Every entry as a completion."""
  return [completion(v, f"{what}[{i}]") for i, v in enumerate(values)]
