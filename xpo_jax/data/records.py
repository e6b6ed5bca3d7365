"""What the data code hands on: groups of one prompt and K completions."""

import collections
from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import numpy as np

from xpo_jax.errors import data_error
from xpo_jax.types import Feedback

WARN_SHARE = 0.01
STOP_SHARE = 0.20
ROLES = ("system", "user", "assistant")


@dataclasses.dataclass(frozen=True)
class Message:
  """One turn of a conversation. role is one of ROLES."""

  role: str
  content: str


Prompt = str | tuple[Message, ...]
DOCUMENT: Prompt = ""  # in place of a prompt: the completion is a whole text


class Step(NamedTuple):
  """A step of a solution, its line end included."""

  text: str
  label: float | None  # P(the step is right), in [0, 1]; None = not labelled


@dataclasses.dataclass(frozen=True)
class Group:
  """One prompt with K completions and their feedback.

  `id` is "file:row" (1-based) or "film/...": it names the row in messages and
  accounts. `cluster` groups correlated rows in statistics ("" = its own).
  `steps` and `ratings`, where there are any, have one entry a completion; the
  texts of its steps joined are the completion. `ended` is False where a sample
  was cut off at a limit of tokens: its end is not known; () is all True.
  """

  id: str
  prompt: Prompt
  completions: tuple[str, ...]
  feedback: tuple[float, ...]
  kind: Feedback
  cluster: str = ""
  steps: tuple[tuple[Step, ...], ...] = ()
  ratings: tuple[tuple[float, ...], ...] = ()  # raw, one number a rater
  ended: tuple[bool, ...] = ()

  def pick(
    self,
    places: Sequence[int],
    feedback: Sequence[float],
    kind: Feedback,
    id: str,
  ) -> "Group":
    """Some of the completions, in that order, with what belongs to each."""
    own = lambda values: tuple(values[k] for k in places) if values else ()
    return dataclasses.replace(
      self,
      id=id,
      completions=own(self.completions),
      feedback=tuple(feedback),
      kind=kind,
      steps=own(self.steps),
      ratings=own(self.ratings),
      ended=own(self.ended),
    )


@dataclasses.dataclass(frozen=True)
class TokenGroup:
  """A group after template, tokenizer and truncation.

  A completion of 0 tokens is absent. `columns` are numbers of every completion
  token by name; all groups of a data set carry the same names.
  """

  id: str
  cluster: str
  prompt: np.ndarray  # int32 [P], BOS included if the model has one
  completions: tuple[np.ndarray, ...]  # int32 [n_k], EOS included when ended
  ended: tuple[bool, ...]
  feedback: tuple[float, ...]
  kind: Feedback
  weight: float = 1.0
  counted: tuple[bool, ...] | None = None  # tokens count; None = all
  columns: dict[str, tuple[np.ndarray, ...]] = dataclasses.field(
    default_factory=dict
  )  # f32 [n_k] of every completion


@dataclasses.dataclass
class Account:
  """Where the rows went: read == used + sum(dropped), always.

  `notes` counts rows that were kept but changed or worth knowing (truncated,
  tied scores); `warnings` are one-line texts for the user.
  """

  read: int = 0
  used: int = 0
  dropped: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  notes: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  warnings: list[str] = dataclasses.field(default_factory=list)

  @property
  def dropped_share(self) -> float:
    """Dropped rows over rows read; 0 when nothing was read."""
    return sum(self.dropped.values()) / self.read if self.read else 0.0

  def check(self) -> None:
    """Raises AssertionError if a row was lost or counted twice."""
    if self.read != self.used + sum(self.dropped.values()):
      raise AssertionError(
        f"row account: read {self.read} != used {self.used} + dropped"
        f" {dict(self.dropped)}"
      )

  def then(self, later: "Account") -> "Account":
    """This account followed by one of a later stage over the rows used here.

    Raises:
      ValueError: the later stage did not read exactly what this one used.
    """
    if later.read != self.used:
      raise ValueError(
        f"account: the later stage read {later.read} rows, not {self.used}"
      )
    return Account(
      self.read,
      later.used,
      self.dropped + later.dropped,
      self.notes + later.notes,
      self.warnings + later.warnings,
    )

  def table_with(self, examples: "Account") -> list[tuple[str, int]]:
    """`table` of the rows and of the examples made of them, in one.

    One account if every row used here made one example.
    """
    if self.used == examples.read:
      return self.then(examples).table()
    made = [("examples made of them", examples.read)]
    return self.table() + made + examples.table()[1:]

  def table(self) -> list[tuple[str, int]]:
    """Rows (name, count) for printing: read, used, dropped, notes."""
    rows = [("read", self.read), ("used", self.used)]
    rows += [(f"dropped: {k}", n) for k, n in sorted(self.dropped.items())]
    rows += [(f"note: {k}", n) for k, n in sorted(self.notes.items())]
    return rows

  def reasons(self) -> str:
    """The drops on one line, most frequent first: "empty 3, null 1"."""
    ranked = sorted(self.dropped.items(), key=lambda kv: (-kv[1], kv[0]))
    return ", ".join(f"{reason} {n}" for reason, n in ranked) or "none"


def settle(account: Account, source: str, on_bad_row: str = "error") -> None:
  """Checks the identity and judges the share of dropped rows.

  Raises:
    XpoError: (65) nothing is left, or more than 20% dropped and on_bad_row is
      "error". More than 1% adds a warning.
  """
  account.check()
  share = account.dropped_share
  what = f"{source}: {share:.1%} of {account.read} rows dropped"
  if account.used == 0:
    raise data_error(f"{what}, nothing is left ({account.reasons()})")
  if share > STOP_SHARE and on_bad_row == "error":
    raise data_error(
      f"{what} ({account.reasons()}); mend the data, or accept it with"
      " data.on_bad_row=skip"
    )
  if share > WARN_SHARE:
    account.warnings.append(f"{what} ({account.reasons()})")


class BadRow(Exception):
  """A row that is wrong; `reason` is its name in an account under skip."""

  def __init__(self, reason: str, message: str):
    super().__init__(message)
    self.reason = reason
