"""`xpo label`: a person compares two samples, blind and order-swapped."""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
import dataclasses
import hashlib
import json
from pathlib import Path
import time

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from xpo_jax import label_journal, progress
from xpo_jax.data import cells, dialogues, load, sources
from xpo_jax.data.records import Account, BadRow, Group, Prompt
from xpo_jax.errors import data_error
from xpo_jax.score_rows import plain_prompt
from xpo_jax.types import Feedback

KEYS = {"1": "first", "2": "second", "t": "tie", "s": "skip", "u": "undo",
        "q": "quit"}  # fmt: skip
SAMPLED = {"prompt", "texts", "scores", "policy"}  # of a stage's samples.jsonl
_HELP = "1, 2: better  t: no difference  s: skip  u: undo  q: stop"


@dataclasses.dataclass(frozen=True)
class Item:
  """A pair to show: `texts[first]` comes first."""

  id: str
  prompt: Prompt
  texts: tuple[str, str]
  first: int
  repeat: bool


Ask = Callable[[Item, int, int], str]  # (item, number, of) -> value of KEYS


def run(args: argparse.Namespace) -> None:
  """Asks until all is answered or the person stops; then shows agreement.

  Raises:
    XpoError: bad data, or an --out that is not ours.
  """
  groups = read(args.data, args.format)
  pairs = comparable(groups, args.seed)[: args.limit or None]
  if not pairs:
    raise data_error(f"{args.data}: no row has two completions to compare")
  out = Path(args.out)
  label_journal.cut_torn_row(out)
  items = plan(pairs, args.annotator, args.seed, args.repeat)
  console = Console(highlight=False)
  session(items, out, args.annotator, lambda *own: page(console, *own))
  said = {pair_id(g): data_choice(g) for g in pairs}
  labels = {id: choice for id, choice in said.items() if choice is not None}
  answers = label_journal.read(out)
  rows = label_journal.agreement(answers, labels)
  path = out.with_suffix(".agreement.json")
  path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
  show(out, answers, rows)


def read(source: str, format: str = "auto") -> list[Group]:
  """Rows of any layout with completions, or a stage's `samples.jsonl`.

  Raises:
    XpoError: (65) a bad file or row.
  """
  path = source.partition(",")[0].strip()
  _, row = next(sources.read_rows(path, "error", Account()), ("", {}))
  if format == "auto" and SAMPLED <= {*row}:
    return [
      sampled(row, row_id)
      for path in source.split(",")
      for row_id, row in sources.read_rows(path.strip(), "error", Account())
    ]
  groups, account = load.load_groups(source, format)
  for warning in account.warnings:
    print(f"warning: {warning}")
  return groups


def sampled(row: dict, row_id: str) -> Group:
  """What a stage has drawn for a prompt: the different texts and their scores.

  Texts that say nothing are left out; where a text has no score, none has.

  Raises:
    XpoError: (65) a bad row.
  """
  try:
    prompt = cells.prompt(row["prompt"], Counter())
    texts, scores = cells.lists(row, "texts", "scores")
    every = zip(cells.completions(texts, "texts"), scores, strict=True)
    own = {t: s for t, s in every if not cells.says_nothing(t)}
    known = None not in own.values()
    values = [cells.number(s, "score") if known else 0.0 for s in own.values()]
  except BadRow as e:
    raise data_error(f"{row_id}: {e}") from e
  return Group(row_id, prompt, tuple(own), tuple(values), Feedback.SCORE)


def comparable(groups: Sequence[Group], seed: int) -> list[Group]:
  """Groups of two; of a longer list two completions are drawn."""
  out, seen = [], set()
  for g in groups:
    if len(g.completions) > 2:
      count = len(g.completions)
      draw = _hash(seed, g.id, *g.completions)
      i = draw % count
      j = (i + 1 + draw // count % (count - 1)) % count
      g = g.pick((i, j), (g.feedback[i], g.feedback[j]), g.kind, g.id)
    differ = len(g.completions) == 2 and g.completions[0] != g.completions[1]
    if differ and pair_id(g) not in seen:
      seen.add(pair_id(g))
      out.append(g)
  return out


def plan(
  pairs: Sequence[Group], annotator: str, seed: int, repeat: float
) -> list[Item]:
  """What to ask, repeats last and swapped; a function of its arguments only."""
  items = []
  for g in pairs:
    id = pair_id(g)
    texts = tuple(sorted(g.completions))
    first = _hash(seed, annotator, id) % 2
    items.append(Item(id, g.prompt, texts, first, False))
  again = [
    dataclasses.replace(own, first=1 - own.first, repeat=True)
    for own in items
    if _hash(seed, annotator, "again", own.id) % 10**6 < repeat * 10**6
  ]
  return items + again


def session(
  items: Sequence[Item],
  out: Path,
  annotator: str,
  ask: Ask,
  clock: Callable[[], float] = time.monotonic,
) -> None:
  """Asks about what this annotator has not answered in `out` yet.

  Args:
    items: of `plan`.
    out: grows by one row an answer.
    annotator: who answers.
    ask: shows an item and returns a value of KEYS.
    clock: seconds.
  """
  done = {
    (own.id, own.repeat)
    for own in label_journal.read(out)
    if own.annotator == annotator
  }
  open_ = [n for n, own in enumerate(items) if (own.id, own.repeat) not in done]
  sizes: list[tuple[int, int]] = []  # (place in open_, file size before)
  at = 0
  while at < len(open_):
    item = items[open_[at]]
    began = clock()
    said = ask(item, open_[at] + 1, len(items))
    if said == "quit":
      return
    if said == "undo":
      if sizes:
        at, size = sizes.pop()
        with open(out, "r+b") as f:
          f.truncate(size)
      continue
    if said != "skip":
      row = answer_row(item, annotator, said, clock() - began)
      sizes.append((at, label_journal.append(out, row)))
    at += 1


def answer_row(
  item: Item, annotator: str, said: str, seconds: float
) -> dict[str, object]:
  """One row of the file; `said` is first, second or tie."""
  choice, chosen, rejected = "tie", None, None
  if said != "tie":
    better = item.first if said == "first" else 1 - item.first
    choice = str(better)
    if not item.repeat:
      chosen, rejected = item.texts[better], item.texts[1 - better]
  return {
    "prompt": plain_prompt(item.prompt),
    "chosen": chosen,
    "rejected": rejected,
    "id": item.id,
    "annotator": annotator,
    "choice": choice,
    "first": item.first,
    "repeat": item.repeat,
    "seconds": round(seconds, 1),
    "texts": list(item.texts),
  }


def pair_id(group: Group) -> str:
  """The same for the same prompt and texts, in either order."""
  texts = sorted(group.completions)
  return f"{_hash(json.dumps(plain_prompt(group.prompt)), *texts):016x}"


def data_choice(group: Group) -> str | None:
  """Which of the sorted texts the data prefer; None: they do not say."""
  one, two = group.feedback
  says = group.kind not in (Feedback.DEMONSTRATION, Feedback.BINARY)
  if not says or one == two:
    return None
  better = group.completions[0 if one > two else 1]
  return str(sorted(group.completions).index(better))


def page(console: Console, item: Item, number: int, of: int) -> str:
  """Shows a pair and reads a key until it is one of KEYS."""
  text = lambda s: Text(progress.plain(s.strip(), console))
  console.clear()
  console.rule(f"{number} of {of}")
  prompt = dialogues.as_text(item.prompt, cue=False)
  console.print(Panel(text(prompt), title="prompt", border_style="dim"))
  for name, k in (("1", item.first), ("2", 1 - item.first)):
    console.print(Panel(text(item.texts[k]), title=name, border_style="cyan"))
  while True:
    try:
      said = console.input(f"{_HELP} > ").strip().lower()
    except EOFError:
      return "quit"
    if said in KEYS:
      return KEYS[said]


def show(out: Path, answers: Sequence, rows: Sequence[dict]) -> None:
  """Prints what there is, and the agreement."""
  print(f"{out}: {len(answers)} answers")
  if rows:
    progress.print_table(
      "agreement",
      ("who", "n", "share", "95% interval", "kappa"),
      [
        (
          row["who"],
          row["n"],
          f"{row['agreement']:.2f}",
          f"{row['low']:.2f} .. {row['high']:.2f}",
          "" if row.get("kappa") is None else f"{row['kappa']:.2f}",
        )
        for row in rows
      ],
    )


def _hash(*parts: object) -> int:
  """64 bits of the parts."""
  whole = json.dumps([str(p) for p in parts]).encode()
  return int.from_bytes(hashlib.sha256(whole).digest()[:8], "big")
