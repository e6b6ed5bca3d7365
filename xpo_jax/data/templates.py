"""Groups to token groups: template, tokenizer, truncation, in that order.

Prompt and completion are always encoded apart and then joined, so the same
prompt gives the same ids whatever follows it. So are the steps of a solution:
the end of every step is the end of a token.
"""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import functools

import numpy as np

from xpo_jax.data import chat, dialogues
from xpo_jax.data.records import (
  DOCUMENT,
  Account,
  Group,
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
  # Ids of the pieces that make a completion, without `end_id`.
  completion: Callable[[Prompt, Sequence[str]], list[np.ndarray]]
  end_id: int
  # The same groups, prepared some at a time.
  ahead: Callable[[Iterable[Group]], Iterable[Group]] = iter


def usual(tokenizer) -> str:
  """What the model was trained with; else chat if it has a chat template."""
  other = "chat" if tokenizer.chat_template else "plain"
  return tokenizer.trained_with or other


def make_template(tokenizer, name: str) -> Template:
  """The template of that name over a tokenizer.

  plain: a text prompt is encoded as it is; messages become
    "\\n\\nHuman: ...\\n\\nAssistant:" and the completion gets a leading space.
  chat: the tokenizer's own chat template; a text prompt is one user turn.

  Raises:
    XpoError: no such template, or the tokenizer's cannot be used.
  """
  encode_all = lambda pieces: [tokenizer.encode(t, "text") for t in pieces]
  if name == "plain":
    return Template(
      prompt=lambda p: _with_bos(
        tokenizer, tokenizer.encode(dialogues.as_text(p))
      ),
      completion=lambda p, pieces: encode_all(
        pieces if isinstance(p, str) else [f" {pieces[0]}", *pieces[1:]]
      ),
      end_id=tokenizer.eos_id,
    )
  if name == "chat":
    made = chat.make_chat(tokenizer)
    return Template(
      prompt=lambda p: _with_bos(tokenizer, made.prompt(chat.as_messages(p))),
      completion=lambda p, pieces: made.completion(chat.as_messages(p), pieces),
      end_id=made.end_id,
      ahead=made.ahead,
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
  (BOS stays). A longer completion is cut on the right and is then not ended; a
  solution is cut after its last whole step, and dropped when no labelled step
  is left. A completion whose row says that it is not ended gets no end token. A
  document follows BOS, or EOS where the model has no BOS, and ends with EOS
  under either template.

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
    a truncated_prompt or truncated_completion, and those in which a row says
    that one is not ended (unended_completion). Groups with steps carry the
    column token_feedback: the label at the last token of every labelled step,
    NaN elsewhere. A list of self samples that is shorter than the longest has
    absent ones before its rejected completion, which is last in all.

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
  for group in form.ahead(groups):
    account.read += 1
    try:
      prompt, pieces, end = _ids(group, form, tokenizer)
    except XpoError as e:
      raise data_error(f"{group.id}: {e}") from e
    if room is not None and len(prompt) > room:
      account.dropped["prompt_too_long"] += 1
      continue
    done = _token_group(group, prompt, pieces, end, max_completion_length)
    if isinstance(done, str):
      account.dropped[done] += 1
      continue
    cut = sum(done.ended) < sum(_ended(group))
    account.notes["truncated_completion"] += cut
    account.notes["unended_completion"] += not all(_ended(group))
    account.notes["truncated_prompt"] += len(prompt) > max_prompt_length
    short = cut_left(prompt, max_prompt_length, tokenizer.bos_id)
    kept.append(dataclasses.replace(done, prompt=short))
  account.used = len(kept)
  account.notes += {}  # leaves the positive counts
  settle(account, "tokens", on_bad_row)
  return rejected_last(kept), account


def _ids(
  group: Group, form: Template, tokenizer
) -> tuple[np.ndarray, list[list[np.ndarray]], int]:
  """(prompt, the pieces of every completion, end id)."""
  if group.prompt == DOCUMENT:
    bos, end = tokenizer.bos_id, tokenizer.eos_id
    start = np.asarray([end if bos is None else bos], np.int32)
    return start, [[tokenizer.encode(c)] for c in group.completions], end
  texts = [[c] for c in group.completions]
  if group.steps:
    texts = [[step.text for step in steps] for steps in group.steps]
  pieces = [form.completion(group.prompt, own) for own in texts]
  return form.prompt(group.prompt), pieces, form.end_id


def _ended(group: Group) -> tuple[bool, ...]:
  """Of every completion, whether its text ends where it ended."""
  return group.ended or (True,) * len(group.completions)


def _token_group(
  group: Group,
  prompt: np.ndarray,
  pieces: list[list[np.ndarray]],
  end: int,
  room: int,
) -> TokenGroup | str:
  """The group with completions ended or cut, or the reason of its drop."""
  if any(len(ids) == 0 for own in pieces for ids in own):
    return "empty"
  stop, ended = np.asarray([end], np.int32), _ended(group)
  full = [
    np.concatenate([*own, stop[: int(whole)]])
    for own, whole in zip(pieces, ended, strict=True)
  ]
  cut, columns = tuple(ids[:room] for ids in full), {}
  if group.steps:
    labels = [
      _step_labels(ids, own, [step.label for step in steps], room)
      for ids, own, steps in zip(full, pieces, group.steps, strict=True)
    ]
    if any(np.isnan(own).all() for own in labels):
      return "no_step_left"
    columns["token_feedback"] = tuple(labels)
    cut = tuple(ids[: len(own)] for ids, own in zip(full, labels, strict=True))
  compared = group.kind not in (Feedback.BINARY, Feedback.DEMONSTRATION)
  same = all(np.array_equal(ids, cut[0]) for ids in cut[1:])
  if compared and len(cut) > 1 and same:
    return "identical_after_trunc"
  return TokenGroup(
    id=group.id,
    cluster=group.cluster,
    prompt=prompt,
    completions=cut,
    ended=tuple(
      len(ids) <= room and whole for ids, whole in zip(full, ended, strict=True)
    ),
    feedback=group.feedback,
    kind=group.kind,
    columns=columns,
  )


def _step_labels(
  full: np.ndarray,
  pieces: list[np.ndarray],
  labels: list[float | None],
  room: int,
) -> np.ndarray:
  """The label at the last token of each labelled step, NaN elsewhere.

  Its length is that of what stays: all, or the steps that fit as a whole.
  """
  ends = np.cumsum([len(ids) for ids in pieces])
  whole = ends[ends <= room]
  size = len(full) if len(full) <= room else whole.max(initial=0)
  column = np.full(size, np.nan, np.float32)
  column[whole - 1] = np.array(labels[: len(whole)], np.float32)
  return column


def rejected_last(groups: list[TokenGroup]) -> list[TokenGroup]:
  """Lists of self samples with their rejected completion in the same place.

  Absent completions (no tokens) fill the shorter ones up before it.
  """
  longest = max(len(g.completions) for g in groups)
  return [
    _filled_up(g, longest - len(g.completions))
    if g.kind is Feedback.BINARY and len(g.feedback) > 1 and g.feedback[-1] < 0
    else g
    for g in groups
  ]


def _filled_up(group: TokenGroup, absent: int) -> TokenGroup:
  fill = lambda values, value: (*values[:-1], *(value,) * absent, values[-1])
  return dataclasses.replace(
    group,
    completions=fill(group.completions, np.zeros(0, np.int32)),
    ended=fill(group.ended, False),
    feedback=fill(group.feedback, 0.0),
  )


def cut_left(ids: np.ndarray, room: int, bos: int | None) -> np.ndarray:
  """The last `room` ids, behind BOS if they began with it."""
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
