"""One door to the data: a path or "films" -> groups and where rows went."""

import collections
import dataclasses
import os
from typing import Any

from xpo_jax.data import films, formats, sources
from xpo_jax.data.records import Account, BadRow, Group, settle
from xpo_jax.errors import XpoError, data_error, usage_error
from xpo_jax.types import Feedback


def load(
  config: Any, evaluation: bool = False, seed: int = 0
) -> tuple[list[Group], Account]:
  """Groups of the config's `data` section.

  Args:
    config: `data` of the config tree (source, split, format, on_bad_row,
      limit, eval_source, eval_split, eval_limit).
    evaluation: read eval_source (source if that is empty) and eval_split.
    seed: of the sampling of film pairs; files are read in their order.

  Raises:
    XpoError: (64, 65, 74) with what to mend.
  """
  source, split, limit = config.source, config.split, config.limit
  if evaluation:
    source, split = config.eval_source or source, config.eval_split
    limit = config.eval_limit
  if source == "films":
    kind = "pairs" if config.format == "auto" else config.format
    return films.load_films(split, kind, limit=limit, seed=seed)
  return load_groups(source, config.format, config.on_bad_row, limit)


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
  kept = list(reversed(distinct.values()))[: limit or None]
  return [dataclasses.replace(g, completions=(), feedback=()) for g in kept]


def texts(config: Any, split: str) -> list[str]:
  """Every completion of a split: what people wrote."""
  if config.source == "films":
    groups, _ = films.load_films(split, "texts")
  else:
    groups, _ = load_groups(config.source, config.format, config.on_bad_row)
  return [c for g in groups for c in g.completions]


def load_groups(
  source: str, format: str = "auto", on_bad_row: str = "error", limit: int = 0
) -> tuple[list[Group], Account]:
  """Groups out of files.

  Args:
    source: one path, or several joined by commas; see `sources.resolve`.
    format: "auto", or a key of `formats.COLUMNS`.
    on_bad_row: "error" stops at the first wrong row; "skip" counts it.
    limit: rows to read in all, 0 = all.

  Returns:
    groups in the order of the rows, all of one feedback kind, and the account.

  Raises:
    XpoError: (65) a bad file or row, nothing left, or more than 20% dropped
      without on_bad_row="skip"; (64) a bad argument.
  """
  if on_bad_row not in ("error", "skip"):
    raise usage_error(f"data.on_bad_row={on_bad_row!r}: choose error or skip")
  if format != "auto" and format not in formats.COLUMNS:
    raise usage_error(
      f"data.format={format!r}: choose auto, {', '.join(formats.COLUMNS)}"
    )
  if limit < 0:
    raise usage_error(f"data.limit={limit}: want 0 (all rows) or more")
  account, groups = Account(), []
  layout, labels = format, {}
  for path in _paths(source):
    for row_id, row in sources.read_rows(path, on_bad_row, account):
      if limit and account.read >= limit:
        break
      account.read += 1
      if layout == "auto":
        layout = _detect(row, row_id)
      try:
        if layout == "labels":
          _same_label_type(row.get("label"), row_id, labels)
        found = collections.Counter()
        group = formats.parse(row, layout, row_id, found)
        if isinstance(group, Group) and groups:
          _same_kind(group, groups[0])
      except BadRow as e:
        if on_bad_row == "error":
          raise data_error(f"{row_id}: {e}") from e
        group = e.reason
      if isinstance(group, Group):
        groups.append(group)
        account.notes.update(found.keys())
      else:
        account.dropped[group] += 1
      if limit and account.read >= limit:
        break
  account.used = len(groups)
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


def _detect(row: dict, row_id: str) -> str:
  try:
    return formats.detect(set(row), row)
  except XpoError as e:
    raise data_error(f"{row_id}: {e}") from e


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
  classes = {g.feedback[0] for g in groups if len(g.completions) == 1}
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
