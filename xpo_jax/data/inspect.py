"""Shows a data source: where rows went, lengths, one example with its mask."""

import itertools
import types

import numpy as np
import rich.console
import rich.table
import rich.text

from xpo_jax.data import films, load, ratings, templates
from xpo_jax.data.records import Group, TokenGroup

QUANTILES = (0, 5, 25, 50, 75, 95, 99, 100)  # percent
_NO_LIMIT = 2**30
_PROMPT, _TRAINED, _CONTROL = "cyan", "bold green", "reverse"
_LABEL = "bold magenta"


def inspect_source(
  source: str,
  tokenizer,
  *,
  split: str = "train",
  format: str = "auto",
  min_gap: float = 1.0,
  threshold: float = 0.0,
  template: str = "plain",
  max_prompt_length: int = 256,
  max_completion_length: int = 256,
  overlong_prompt: str = "drop",
  on_bad_row: str = "error",
  limit: int = 0,
  console: rich.console.Console | None = None,
) -> None:
  """Prints the row account, the raters' agreement, lengths and an example.

  Args:
    source: path, paths with commas, or "films"; the others as in the config's
      `data` section.
    tokenizer: of the model that is to be trained.
    console: where to print; the terminal if None.

  Raises:
    XpoError: as `load.load` and `templates.tokenize`.
  """
  console = console or rich.console.Console()
  data = types.SimpleNamespace(
    source=source,
    split=split,
    format=format,
    min_gap=min_gap,
    threshold=threshold,
    on_bad_row=on_bad_row,
    limit=limit,
  )
  groups, account = load.load(data)
  whole, _ = templates.tokenize(
    groups, tokenizer, template, _NO_LIMIT, _NO_LIMIT
  )
  kept, later = templates.tokenize(
    groups,
    tokenizer,
    template,
    max_prompt_length,
    max_completion_length,
    overlong_prompt,
    on_bad_row,
  )
  sizes = "/".join(map(str, sorted({len(g.completions) for g in groups})))
  head = f"{source}: {groups[0].kind.name} feedback, K = {sizes}"
  console.print(head, markup=False, highlight=False)
  console.print(account_table(account.table_with(later)))
  for warning in (*account.warnings, *later.warnings):
    console.print(f"warning: {warning}", style="yellow", markup=False)
  for line in agreement_lines(data, groups):
    console.print(line, markup=False, highlight=False)
  console.print(length_table(whole))
  console.print(render(kept[0], tokenizer))


def agreement_lines(data, groups: list[Group]) -> list[str]:
  """How far the raters agree, where the data keep their raw ratings."""
  if data.source == "films":
    own = films.film_ratings(data.split)
    return ratings.agreement(own, data.min_gap).lines()
  if not groups[0].ratings:
    return []
  every, _ = load.load_groups(data.source, "texts", data.on_bad_row, data.limit)
  rows = itertools.groupby(every, key=lambda g: g.id.rpartition("/")[0])
  own = [[g.ratings[0] for g in row] for _, row in rows]
  return ratings.agreement(own, data.min_gap).lines()


def account_table(counts: list[tuple[str, int]]) -> rich.table.Table:
  """read, used, dropped by reason, notes."""
  table = rich.table.Table("rows", "count", title="Row account")
  for name, count in counts:
    table.add_row(name, str(count))
  return table


def length_table(groups: list[TokenGroup]) -> rich.table.Table:
  """Quantiles of the lengths in tokens."""
  completions = [len(ids) for g in groups for ids in g.completions]
  lengths = {
    "prompt": [len(g.prompt) for g in groups],
    "completion": [n for n in completions if n],
  }
  table = rich.table.Table(title="Tokens before truncation, by percentile")
  table.add_column("part")
  for q in QUANTILES:
    table.add_column(f"{q}%", justify="right")
  for name, values in lengths.items():
    if not values:  # prompts alone
      continue
    numbers = np.percentile(values, QUANTILES, method="nearest")
    table.add_row(name, *(str(int(n)) for n in numbers))
  return table


def render(group: TokenGroup, tokenizer) -> rich.text.Text:
  """One group: the prompt, then each completion in the colour of the mask."""
  text = rich.text.Text("Example ")
  text.append(f"{group.id}: ")
  text.append("prompt (no loss)", style=_PROMPT)
  text.append(", ")
  text.append("trained completion", style=_TRAINED)
  text.append(", ")
  text.append("control token", style=_CONTROL)
  labels = group.columns.get("token_feedback")
  if labels:
    text.append(", ")
    text.append("[label of the step]", style=_LABEL)
  text.append("\n")
  _append_ids(text, group.prompt, tokenizer, _PROMPT)
  for k, ids in enumerate(group.completions):
    if not len(ids):
      text.append(f"\n[{k}] absent")
      continue
    cut = "" if group.ended[k] else ", cut"
    text.append(f"\n[{k}] feedback {group.feedback[k]:g}{cut}:")
    counted = group.counted is None or group.counted[k]
    style = _TRAINED if counted else _PROMPT
    ends = np.flatnonzero(~np.isnan(labels[k])) + 1 if labels else ()
    for piece, end in zip(np.split(ids, ends), [*ends, None], strict=True):
      _append_ids(text, piece, tokenizer, style)
      if end is not None:
        _append_label(text, labels[k][end - 1])
  return text


def _append_label(text: rich.text.Text, label: float) -> None:
  """The label of a step, before the line end that belongs to the step."""
  ends = len(text.plain) - len(text.plain.rstrip("\n"))
  if ends:  # cropping nothing would crop all
    text.right_crop(ends)
  text.append(f"[{label:g}]", style=_LABEL)
  text.append("\n" * ends)


def _append_ids(text: rich.text.Text, ids, tokenizer, style: str) -> None:
  """Decodes runs of plain ids together: a token can be part of a letter."""
  run: list[int] = []
  for token in [*map(int, ids), None]:
    if token is not None and tokenizer.decode([token]):
      run.append(token)
      continue
    if run:
      text.append(tokenizer.decode(run), style=style)
    run = []
    if token is not None:
      name = tokenizer.core.id_to_token(token) or f"<{token}>"
      text.append(name, style=f"{style} {_CONTROL}")
