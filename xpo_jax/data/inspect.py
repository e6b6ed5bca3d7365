"""Shows a data source: where rows went, lengths, one example with its mask."""

import types

import numpy as np
import rich.console
import rich.table
import rich.text

from xpo_jax.data import load, templates
from xpo_jax.data.records import Account, TokenGroup

QUANTILES = (0, 5, 25, 50, 75, 95, 99, 100)  # percent
_NO_LIMIT = 2**30
_PROMPT, _TRAINED, _CONTROL = "cyan", "bold green", "reverse"


def inspect_source(
  source: str,
  tokenizer,
  *,
  split: str = "train",
  format: str = "auto",
  template: str = "plain",
  max_prompt_length: int = 256,
  max_completion_length: int = 256,
  overlong_prompt: str = "drop",
  on_bad_row: str = "error",
  limit: int = 0,
  console: rich.console.Console | None = None,
) -> None:
  """Prints the row account, token lengths and one example.

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
  account = account.then(later)
  sizes = "/".join(map(str, sorted({len(g.completions) for g in groups})))
  head = f"{source}: {groups[0].kind.name} feedback, K = {sizes}"
  console.print(head, markup=False, highlight=False)
  console.print(account_table(account))
  for warning in account.warnings:
    console.print(f"warning: {warning}", style="yellow", markup=False)
  console.print(length_table(whole))
  console.print(render(kept[0], tokenizer))


def account_table(account: Account) -> rich.table.Table:
  """read, used, dropped by reason, notes."""
  table = rich.table.Table("rows", "count", title="Row account")
  for name, count in account.table():
    table.add_row(name, str(count))
  return table


def length_table(groups: list[TokenGroup]) -> rich.table.Table:
  """Quantiles of the lengths in tokens."""
  lengths = {
    "prompt": [len(g.prompt) for g in groups],
    "completion": [len(ids) for g in groups for ids in g.completions],
  }
  table = rich.table.Table(title="Tokens before truncation, by percentile")
  table.add_column("part")
  for q in QUANTILES:
    table.add_column(f"{q}%", justify="right")
  for name, values in lengths.items():
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
  text.append("\n")
  _append_ids(text, group.prompt, tokenizer, _PROMPT)
  for k, ids in enumerate(group.completions):
    cut = "" if group.ended[k] else ", cut"
    text.append(f"\n[{k}] feedback {group.feedback[k]:g}{cut}:")
    counted = group.counted is None or group.counted[k]
    _append_ids(text, ids, tokenizer, _TRAINED if counted else _PROMPT)
  return text


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
