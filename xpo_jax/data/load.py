"""One door to the data: a path or "films" -> groups and where rows went."""

import collections
import os
from typing import Any

from xpo_jax.data import films, formats, ratings, sources
from xpo_jax.data.records import DOCUMENT, Account, BadRow, Group, settle
from xpo_jax.errors import XpoError, data_error, usage_error
from xpo_jax.types import Feedback


def load(
  config: Any, evaluation: bool = False, seed: int = 0, first: int = 0
) -> tuple[list[Group], Account]:
  """Groups of the config's `data` section.

  Args:
    config: `data` of the config tree (source, split, format, min_gap,
      threshold, on_bad_row, limit, eval_source, eval_split, eval_limit).
    evaluation: read eval_source (source if that is empty) and eval_split.
    seed: of the sampling of film pairs; files are read in their order.
    first: rows left out before those of the limit.

  Raises:
    XpoError: (64, 65, 74) with what to mend.
  """
  source, split, limit = config.source, config.split, config.limit
  if evaluation:
    source, split = config.eval_source or source, config.eval_split
    limit = config.eval_limit
  if source == "films":
    kind = "pairs" if config.format == "auto" else config.format
    return films.load_films(
      split,
      kind,
      min_gap=config.min_gap,
      threshold=config.threshold,
      limit=limit,
      seed=seed,
      first=first,
    )
  return load_groups(
    source,
    config.format,
    config.on_bad_row,
    limit,
    config.min_gap,
    config.threshold,
    first,
  )


def prompts(config: Any, limit: int = 0) -> list[Group]:
  """Distinct prompts of source and split, groups without completions.

  Args:
    config: source, split, format, on_bad_row as in `load`.
    limit: the first so many; 0 = all.
  """
  if config.source == "films":
    return films.film_prompts(config.split, limit)
  groups, _ = load_groups(config.source, config.format, config.on_bad_row)
  distinct = {g.prompt: g for g in reversed(groups)}
  if DOCUMENT in distinct:
    raise data_error(f"{config.source}: rows of plain text have no prompts")
  kept = list(reversed(distinct.values()))[: limit or None]
  return [g.pick((), (), g.kind, g.id) for g in kept]


def texts(config: Any, split: str) -> list[str]:
  """Every completion of a split: what people wrote."""
  if config.source == "films":
    groups, _ = films.load_films(split, "texts")
  else:
    groups, _ = load_groups(config.source, config.format, config.on_bad_row)
  return [c for g in groups for c in g.completions]


def load_groups(
  source: str,
  format: str = "auto",
  on_bad_row: str = "error",
  limit: int = 0,
  min_gap: float = 1.0,
  threshold: float = 0.0,
  first: int = 0,
) -> tuple[list[Group], Account]:
  """Groups out of files.

  Args:
    source: one path, or several joined by commas; see `sources.resolve`.
    format: "auto", a key of `formats.COLUMNS`, or, for rows with ratings, one
      of `ratings.KINDS` (auto: lists).
    on_bad_row: "error" stops at the first wrong row; "skip" counts it.
    limit: rows to read in all, 0 = all.
    min_gap: of mean ratings in a pair (pairs and soft), > 0.
    threshold: mean ratings above it are good, below it bad (binary).
    first: rows left out before, over all files; nobody looks at them.

  Returns:
    groups in the order of the rows, all of one feedback kind, and the account.

  Raises:
    XpoError: (65) a bad file or row, nothing left, or more than 20% dropped
      without on_bad_row="skip"; (64) a bad argument.
  """
  if on_bad_row not in ("error", "skip"):
    raise usage_error(f"data.on_bad_row={on_bad_row!r}: choose error or skip")
  if format not in ("auto", *formats.COLUMNS, *ratings.KINDS):
    raise usage_error(
      f"data.format={format!r}: choose auto, {', '.join(formats.COLUMNS)}"
      f"; rows with ratings: {', '.join(ratings.KINDS)}"
    )
  if limit < 0:
    raise usage_error(f"data.limit={limit}: want 0 (all rows) or more")
  account, groups = Account(), []
  layout, labels, skipped = "", {}, 0
  for path in _paths(source):
    for row_id, row in sources.read_rows(path, on_bad_row, account):
      if skipped < first:
        skipped += 1
        continue
      if limit and account.read >= limit:
        break
      account.read += 1
      layout = layout or _layout(format, row, row_id)
      try:
        if layout == "labels":
          _same_label_type(row.get("label"), row_id, labels)
        found = collections.Counter()
        made = formats.parse(row, layout, row_id, found)
        if isinstance(made, Group) and layout == "ratings":
          kind = format if format in ratings.KINDS else "lists"
          made = ratings.as_kind(made, kind, min_gap, threshold)
        elif isinstance(made, Group):
          made = [made]
        if groups and not isinstance(made, str):
          _same_kind(made[0], groups[0])
      except BadRow as e:
        if on_bad_row == "error":
          raise data_error(f"{row_id}: {e}") from e
        made = e.reason
      if isinstance(made, str):
        account.dropped[made] += 1
      else:
        groups += made
        account.used += 1
        account.notes.update(found.keys())
      if limit and account.read >= limit:
        break
  settle(account, source, on_bad_row)
  return groups, account


def check_leak(train: list[Group], evaluation: list[Group]) -> None:
  """Raises XpoError (65) if rows of the evaluation are trained on too."""
  seen = {(g.prompt, frozenset(g.completions)) for g in train}
  both = [g for g in evaluation if (g.prompt, frozenset(g.completions)) in seen]
  if both:
    raise data_error(
      f"{both[0].id}: {len(both)} of {len(evaluation)} evaluation rows are in"
      " the training data too; remove them from one"
    )


def _paths(source: str) -> list[str]:
  paths = [p.strip() for p in source.split(",")]
  real = [os.path.realpath(sources.resolve(p)) for p in paths]
  for i, path in enumerate(real):
    if path in real[:i]:
      raise data_error(
        f"data.source: {paths[i]!r} is listed twice; name each file once"
      )
  return paths


def _layout(format: str, row: dict, row_id: str) -> str:
  """The layout of a file: the config's, or what its first row tells."""
  rated = set(formats.COLUMNS["ratings"]) <= set(row)
  if format in ratings.KINDS and (rated or format not in formats.COLUMNS):
    return "ratings"
  if format != "auto":
    return format
  try:
    return formats.detect(set(row), row)
  except XpoError as e:
    raise data_error(f"{row_id}: {e}") from e


def check_step_labels(groups: list[Group], source: str) -> None:
  """Raises XpoError (65) if all labelled steps have the same label."""
  labels = {s.label for g in groups for steps in g.steps for s in steps}
  labels -= {None}
  if len(labels) == 1:
    raise data_error(
      f"{source}: every labelled step has the label {labels.pop():g}; a process"
      " reward needs right and wrong steps"
    )


def _same_label_type(label: object, row_id: str, first: dict) -> None:
  """D34: one file writes its labels in one way."""
  if type(label) in (bool, int):
    seen, where = first.setdefault("label", (type(label), row_id))
    if type(label) is not seen:
      raise BadRow(
        "bad_label",
        f"label {label!r} is {type(label).__name__}, that of {where} is"
        f" {seen.__name__}; use true/false or 1/0 throughout",
      )


def _same_kind(group: Group, first: Group) -> None:
  if group.kind is not first.kind:
    raise BadRow(
      "mixed_feedback",
      f"{group.kind.name} feedback, but {first.id} has {first.kind.name}; give"
      " every row a margin, or none",
    )


def check_classes(groups: list[Group], source: str, negative: str) -> None:
  """Single completions with labels have the classes that a method learns from.

  Args:
    groups: of one kind; only BINARY ones with K = 1 are looked at.
    source: for the message.
    negative: `Survey.negative` of the method: "both" needs both classes,
      "negative" an undesirable one.

  Raises:
    XpoError: (65) a class is missing.
  """
  if groups[0].kind is not Feedback.BINARY:
    return
  classes = {g.feedback[0] for g in groups if len(g.completions) == 1} - {0.0}
  if classes == {1.0}:
    both = negative == "both"
    wants = "needs both classes" if both else "learns from undesirable ones (0)"
    raise data_error(
      f"{source}: every label is desirable (1); the method {wants}"
    )
  if classes == {-1.0} and negative == "both":
    raise data_error(
      f"{source}: every label is undesirable (0); the method needs both classes"
    )
