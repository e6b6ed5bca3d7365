"""Groups to token groups: template, tokenizer, truncation, in that order.

Prompt and completion are always encoded apart and then joined, so the same
prompt gives the same ids whatever follows it.
"""

from collections.abc import Callable, Iterable
import dataclasses
import functools

import numpy as np

from xpo_jax.data import chat, dialogues
from xpo_jax.data.records import (
  Account,
  Group,
  Message,
  Prompt,
  TokenGroup,
  settle,
)
from xpo_jax.errors import XpoError, data_error, usage_error
from xpo_jax.types import Feedback

TEMPLATES = ("plain", "chat")


@dataclasses.dataclass(frozen=True)
class Template:
  """How texts become ids. `end_id` ends every finished completion, once."""

  prompt: Callable[[Prompt], np.ndarray]  # BOS included if the model has one
  completion: Callable[[Prompt, str], np.ndarray]  # without `end_id`
  end_id: int


def make_template(tokenizer, name: str) -> Template:
  """The template of that name over a tokenizer.

  plain: a text prompt is encoded as it is; messages become
    "\\n\\nHuman: ...\\n\\nAssistant:" and the completion gets a leading space.
  chat: the tokenizer's own chat template; a text prompt is one user turn.

  Raises:
    XpoError: no such template, or the tokenizer's cannot be used.
  """
  if name == "plain":
    return Template(
      prompt=lambda p: _with_bos(tokenizer, tokenizer.encode(_as_text(p))),
      completion=lambda p, text: tokenizer.encode(
        text if isinstance(p, str) else f" {text}"
      ),
      end_id=tokenizer.eos_id,
    )
  if name == "chat":
    parts = chat.chat_parts(tokenizer)
    return Template(
      prompt=lambda p: _with_bos(
        tokenizer, chat.prompt_ids(_as_messages(p), parts, tokenizer)
      ),
      completion=lambda p, text: tokenizer.encode(
        text.strip() if parts.trimmed else text
      ),
      end_id=parts.end,
    )
  raise usage_error(f"data.template={name!r}: choose {' or '.join(TEMPLATES)}")


def tokenize(
  groups: Iterable[Group],
  tokenizer,
  template: str,
  max_prompt_length: int,
  max_completion_length: int,
  overlong_prompt: str = "drop",
  on_bad_row: str = "error",
) -> tuple[list[TokenGroup], Account]:
  """Token groups, in the order of the groups.

  A longer prompt is dropped, or cut from the left once for its whole group
  (BOS stays). A longer completion is cut on the right and is then not ended.

  Args:
    groups: of one kind of feedback.
    tokenizer: `encode`, `eos_id`, `bos_id`, `chat_template`, `control_id`.
    template: "plain" or "chat".
    max_prompt_length: tokens, BOS included.
    max_completion_length: tokens, end token included.
    overlong_prompt: "drop" or "left".
    on_bad_row: "skip" accepts that more than 20% are dropped.

  Returns:
    the token groups and the account of these groups; notes count groups with
    a truncated_prompt or truncated_completion.

  Raises:
    XpoError: (65) a text that cannot be encoded, or too many drops; (64) a
      bad argument.
  """
  lengths = (
    ("data.max_prompt_length", max_prompt_length),
    ("data.max_completion_length", max_completion_length),
  )
  for name, value in lengths:
    if value < 2:
      raise usage_error(f"{name}={value}: want at least 2 tokens")
  if overlong_prompt not in ("drop", "left"):
    raise usage_error(
      f"data.overlong_prompt={overlong_prompt!r}: choose drop or left"
    )
  form = make_template(tokenizer, template)
  # Films have many groups a prompt; texts are long, so keep the cache small.
  form = dataclasses.replace(form, prompt=functools.lru_cache(512)(form.prompt))
  room = max_prompt_length if overlong_prompt == "drop" else None
  account, kept = Account(), []
  for group in groups:
    account.read += 1
    try:
      prompt = form.prompt(group.prompt)
      texts = [form.completion(group.prompt, c) for c in group.completions]
    except XpoError as e:
      raise data_error(f"{group.id}: {e}") from e
    if room is not None and len(prompt) > room:
      account.dropped["prompt_too_long"] += 1
      continue
    done = _token_group(
      group, prompt, texts, form.end_id, max_completion_length
    )
    if isinstance(done, str):
      account.dropped[done] += 1
      continue
    account.notes["truncated_completion"] += not all(done.ended)
    account.notes["truncated_prompt"] += len(prompt) > max_prompt_length
    short = _cut_left(prompt, max_prompt_length, tokenizer.bos_id)
    kept.append(dataclasses.replace(done, prompt=short))
  account.used = len(kept)
  account.notes += {}  # leaves the positive counts
  settle(account, "tokens", on_bad_row)
  return kept, account


def _token_group(
  group: Group, prompt: np.ndarray, texts: list[np.ndarray], end: int, room: int
) -> TokenGroup | str:
  """The group with completions ended or cut, or the reason of its drop."""
  if any(len(ids) == 0 for ids in texts):
    return "empty"
  full = [np.append(ids, np.int32(end)) for ids in texts]
  cut = tuple(ids[:room] for ids in full)
  compared = group.kind not in (Feedback.BINARY, Feedback.DEMONSTRATION)
  same = all(np.array_equal(ids, cut[0]) for ids in cut[1:])
  if compared and len(cut) > 1 and same:
    return "identical_after_trunc"
  return TokenGroup(
    id=group.id,
    cluster=group.cluster,
    prompt=prompt,
    completions=cut,
    ended=tuple(len(ids) <= room for ids in full),
    feedback=group.feedback,
    kind=group.kind,
  )


def _cut_left(ids: np.ndarray, room: int, bos: int | None) -> np.ndarray:
  if len(ids) <= room:
    return ids
  if bos is not None and ids[0] == bos:
    return np.concatenate([ids[:1], ids[len(ids) - room + 1 :]])
  return ids[len(ids) - room :]


def _with_bos(tokenizer, ids: np.ndarray) -> np.ndarray:
  bos = tokenizer.bos_id
  if bos is None or (len(ids) and ids[0] == bos):
    return ids
  return np.concatenate([np.asarray([bos], np.int32), ids])


def _as_messages(prompt: Prompt) -> tuple[Message, ...]:
  return (Message("user", prompt),) if isinstance(prompt, str) else prompt


def _as_text(prompt: Prompt) -> str:
  if isinstance(prompt, str):
    return prompt
  lines = [
    m.content
    if m.role == "system"
    else f"\n\n{dialogues.NAME[m.role]}: {m.content}"
    for m in prompt
  ]
  return "".join(lines) + f"\n\n{dialogues.NAME['assistant']}:"
