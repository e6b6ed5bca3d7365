"""Rows of the layouts that a stage writes, and those of earlier stages."""

from collections.abc import Sequence

from xpo_jax.data import dialogues, load
from xpo_jax.data.records import DOCUMENT, Group, Prompt
from xpo_jax.errors import data_error
from xpo_jax.score_rows import plain_prompt
from xpo_jax.types import Feedback

# Layout (formats.COLUMNS) -> what its rows become.
FEEDBACK = {
  "pairs": Feedback.ORDER,
  "demonstrations": Feedback.DEMONSTRATION,
  "scores": Feedback.SCORE,
  "win_rates": Feedback.PROBABILITY,
  "samples": Feedback.BINARY,
}


def make_row(
  layout: str,
  prompt: Prompt,
  texts: Sequence[str],
  values: Sequence[float] = (),
  rejected: str | None = None,
  ended: Sequence[bool] = (),
) -> dict:
  """A row of that layout, as JSON writes it.

  Args:
    layout: a key of FEEDBACK.
    prompt: without an answer.
    texts: the better one first in a pair.
    values: scores or win rates of the texts.
    rejected: of self samples.
    ended: of the texts, and of `rejected` where it is there; (): all True,
      which leaves no column.
  """
  row = {"prompt": plain_prompt(prompt)}
  row |= _texts(layout, texts, values, rejected)
  if all(ended):
    return row
  return row | {"ended": ended[0] if len(ended) == 1 else list(ended)}


def _texts(layout: str, texts, values, rejected) -> dict:
  if layout == "pairs":
    chosen, other = map(_side, texts)
    return {"chosen": chosen, "rejected": other}
  if layout == "demonstrations":
    return {"completion": texts[0]}
  if layout == "samples":
    return {"samples": list(texts), "rejected": rejected}
  return {"completions": list(texts), layout: list(values)}


def _side(text: str) -> str | list[dict]:
  """A text that looks like a dialogue would be read as one."""
  if dialogues.is_dialogue(text):
    return [{"role": "assistant", "content": text}]
  return text


def earlier(
  files: Sequence[str], layout: str, on_bad_row: str, where: str
) -> list[dict]:
  """All rows of files of one layout, in order.

  Raises:
    XpoError: (65) a bad file, or one of another layout.
  """
  out = []
  for path in files:
    groups, _ = load.load_groups(path, on_bad_row=on_bad_row)
    if not _fits(groups, layout):
      found = groups[0].kind.name
      raise data_error(
        f"{where}.also: {path} holds {found} rows with "
        f"{len(groups[0].completions)} completions; this selection writes the "
        f"layout {layout}, name files of the same"
      )
    out += [_written(layout, g) for g in groups]
  return out


def _fits(groups: Sequence[Group], layout: str) -> bool:
  kind = FEEDBACK[layout]
  least = 1 if layout == "demonstrations" else 2
  return all(
    g.kind is kind and len(g.completions) >= least and g.prompt != DOCUMENT
    for g in groups
  )


def _written(layout: str, group: Group) -> dict:
  texts, rejected = list(group.completions), None
  if layout == "samples":
    rejected = texts.pop()
  return make_row(
    layout, group.prompt, texts, group.feedback, rejected, group.ended
  )
