"""Rows of the accepted layouts to groups."""

import collections
from collections.abc import Callable
import math

from xpo_jax.data import dialogues
from xpo_jax.data.records import BadRow, Group, Message, Prompt
from xpo_jax.errors import data_error, usage_error
from xpo_jax.types import Feedback

COLUMNS = {
  "pairs": ("prompt", "chosen", "rejected"),
  "dialogues": ("chosen", "rejected"),
  "scores": ("prompt", "completions", "scores"),
  "labels": ("prompt", "completion", "label"),
  "demonstrations": ("prompt", "completion"),
  "messages": ("messages",),
}
MAX_TEXT = 1_000_000  # characters of one row; a longer one is dropped
# A completion that is only an end marker teaches nothing.
_END_TEXTS = ("</s>", "<eos>", "<|endoftext|>", "<|im_end|>", "<|eot_id|>")
Notes = collections.Counter


def detect(columns: set[str], first_row: dict) -> str:
  """The layout's name from the columns of the first row.

  Raises:
    XpoError: (65) a column of the nearest layout is missing, or no layout is
      near; the accepted layouts are listed.
  """
  columns = set(columns)
  for layout, wanted in COLUMNS.items():
    if columns >= set(wanted):
      return layout
  found = ", ".join(sorted(map(str, columns))) or "none"
  telling = {
    "chosen": "dialogues",
    "rejected": "dialogues",
    "completions": "scores",
    "scores": "scores",
    "label": "labels",
    "completion": "demonstrations",
  }
  for name, layout in telling.items():
    missing = [c for c in COLUMNS[layout] if c not in columns]
    if name in columns and missing:
      raise data_error(
        f"no column {missing[0]!r}; columns found: {found}; layout {layout}"
        f" has {', '.join(COLUMNS[layout])}"
      )
  accepted = "; ".join(f"{k}: {', '.join(v)}" for k, v in COLUMNS.items())
  raise data_error(f"columns {found} are no known layout; accepted: {accepted}")


def parse(
  row: dict, layout: str, row_id: str, notes: Notes | None = None
) -> Group | str:
  """One row as a group, or the reason for which it is dropped.

  Args:
    row: column -> value.
    layout: a key of COLUMNS.
    row_id: "file:row".
    notes: counts what was kept but is worth knowing (tied_scores, ...).

  Raises:
    BadRow: the row is wrong (not merely useless).
    XpoError: (64) no such layout.
  """
  if layout not in COLUMNS:
    raise usage_error(
      f"data.format={layout!r}: choose auto, {', '.join(COLUMNS)}"
    )
  notes = Notes() if notes is None else notes
  wanted = COLUMNS[layout]
  for name in wanted:
    if name not in row:
      raise BadRow(
        "missing_column",
        f"no column {name!r}; columns found: {', '.join(sorted(row))}",
      )
  # A label of null is an error: it may mean "undesirable" to whoever wrote it.
  if any(row[name] is None for name in wanted if name != "label"):
    return "null"
  if sum(_size(row[name]) for name in wanted) > MAX_TEXT:
    return "too_long"
  return _PARSERS[layout](row, row_id, notes)


def _size(value: object) -> int:
  if isinstance(value, str):
    return len(value)
  if isinstance(value, dict):
    return sum(map(_size, value.values()))
  return sum(map(_size, value)) if isinstance(value, list) else 0


def _pair(row: dict, row_id: str, notes: Notes) -> Group | str:
  chosen_prompt, chosen = _side(row["chosen"], "chosen", notes)
  rejected_prompt, rejected = _side(row["rejected"], "rejected", notes)
  if chosen_prompt != rejected_prompt:
    raise BadRow(
      "different_prompts",
      "chosen and rejected have different prompts"
      f"{_where(chosen_prompt, rejected_prompt)}; make all turns before the"
      " last assistant turn equal",
    )
  prompt = _joint_prompt(row.get("prompt"), chosen_prompt, notes)
  kind, feedback = Feedback.ORDER, (1.0, 0.0)
  if "margin" in row:
    if row["margin"] is None:
      return "null"
    margin = _number(row["margin"], "margin")
    if margin < 0:
      raise BadRow("bad_margin", f"margin {margin} is negative; want >= 0")
    kind, feedback = Feedback.MARGIN, (margin, 0.0)
  return _group(row, row_id, prompt, (chosen, rejected), feedback, kind)


def _scored(row: dict, row_id: str, notes: Notes) -> Group | str:
  texts, scores = row["completions"], row["scores"]
  for name, value in (("completions", texts), ("scores", scores)):
    if not isinstance(value, list):
      raise BadRow("bad_list", f"{name} is {value!r:.40}; want a list")
  if len(texts) != len(scores):
    raise BadRow(
      "bad_list", f"{len(texts)} completions but {len(scores)} scores"
    )
  if any(v is None for v in (*texts, *scores)):
    return "null"
  scores = tuple(_number(v, f"scores[{i}]") for i, v in enumerate(scores))
  if not texts:
    return "empty"
  if len(texts) == 1:
    return "single"
  texts = tuple(
    _completion(v, f"completions[{i}]") for i, v in enumerate(texts)
  )
  prompt = _prompt(row["prompt"], notes)
  group = _group(row, row_id, prompt, texts, scores, Feedback.SCORE)
  if isinstance(group, Group) and len(set(scores)) < len(scores):
    notes["tied_scores"] += 1
  return group


def _labelled(row: dict, row_id: str, notes: Notes) -> Group | str:
  label = row["label"]
  if not isinstance(label, bool) and not (
    type(label) is int and label in (0, 1)
  ):
    raise BadRow("bad_label", f"label {label!r}; want true/false or 1/0")
  text = _completion(row["completion"], "completion")
  feedback = (1.0 if label else -1.0,)
  prompt = _prompt(row["prompt"], notes)
  return _group(row, row_id, prompt, (text,), feedback, Feedback.BINARY)


def _demonstrated(row: dict, row_id: str, notes: Notes) -> Group | str:
  text = _completion(row["completion"], "completion")
  prompt = _prompt(row["prompt"], notes)
  return _group(row, row_id, prompt, (text,), (1.0,), Feedback.DEMONSTRATION)


def _conversation(row: dict, row_id: str, notes: Notes) -> Group | str:
  value = row["messages"]
  messages = (
    dialogues.parse_dialogue(value, notes)
    if dialogues.is_dialogue(value)
    else dialogues.parse_messages(value, "messages")
  )
  if messages[-1].role != "assistant":
    return "no_target"
  if len(messages) == 1:
    raise BadRow("empty_prompt", "messages has no user turn; add the prompt")
  text = messages[-1].content
  kind = Feedback.DEMONSTRATION
  return _group(row, row_id, messages[:-1], (text,), (1.0,), kind)


_PARSERS: dict[str, Callable[[dict, str, Notes], Group | str]] = {
  "pairs": _pair,
  "dialogues": _pair,
  "scores": _scored,
  "labels": _labelled,
  "demonstrations": _demonstrated,
  "messages": _conversation,
}


def _group(row, row_id, prompt: Prompt, texts, feedback, kind) -> Group | str:
  """The last checks that every layout shares."""
  last = prompt if isinstance(prompt, str) else prompt[-1].content
  if not last.strip():
    raise BadRow("empty_prompt", "the prompt is empty; give it a text")
  if dialogues.is_dialogue(row.get("prompt")):
    # "...\n\nAssistant:" + " text": the template puts that space back.
    texts = [text.removeprefix(" ") for text in texts]
  stripped = [text.strip() for text in texts]
  if any(not s or s in _END_TEXTS for s in stripped):
    return "empty"
  if len(texts) > 1 and len(set(texts)) == 1:
    return "identical"
  if len(texts) > 1 and len(set(stripped)) == 1:
    return "identical_after_trunc"
  return Group(row_id, prompt, tuple(texts), tuple(feedback), kind)


def _side(
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


def _prompt(value: object, notes: Notes) -> Prompt:
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


def _joint_prompt(
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
    return _prompt(given, notes)
  if given is None:
    return carried
  prompt = _prompt(given, notes)
  same = (
    any(m.role == "user" and m.content == prompt for m in carried)
    if isinstance(prompt, str)
    else prompt == carried
  )
  if not same:
    raise BadRow(
      "different_prompts", "prompt and the turns inside chosen differ; keep one"
    )
  return carried


def _completion(value: object, what: str) -> str:
  if isinstance(value, str):
    return value
  messages = dialogues.parse_messages(value, what)
  if len(messages) != 1:
    raise BadRow("bad_message", f"{what} has {len(messages)} messages; want 1")
  return messages[0].content


def _number(value: object, what: str) -> float:
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise BadRow("bad_number", f"{what} is {value!r:.40}; want a number")
  try:
    number = float(value)
  except OverflowError:
    number = math.inf
  if not math.isfinite(number):
    raise BadRow("bad_number", f"{what} is {number}; want a finite number")
  return number


def _where(a: tuple[Message, ...] | None, b: tuple[Message, ...] | None) -> str:
  if a is None or b is None:
    return " (one carries a prompt, the other none)"
  for i, (x, y) in enumerate(zip(a, b, strict=False)):
    if x != y:
      return f" (turn {i + 1} differs)"
  return f" ({len(a)} and {len(b)} turns)"
