"""The one exception that reaches a user, and the exit codes of the CLI."""

import enum


class Exit(enum.IntEnum):
  """Process exit codes (the same for every `xpo` subcommand)."""

  USAGE = 64  # a flag or config key
  DATA = 65  # a file or row of data
  CHECKPOINT = 66  # no usable checkpoint or weights
  NUMERIC = 70  # loss or gradient not finite
  LOCKED = 73  # another process owns the run folder
  STORAGE = 74  # I/O
  PREEMPTED = 75  # saved; start me again
  STALL = 76  # nothing moved for too long


class XpoError(Exception):
  """A one-line message: what (file:row or key), the value, the mend.

  `shared`: one process of several met it, and has told all others.
  """

  def __init__(
    self, message: str, code: Exit = Exit.USAGE, shared: bool = False
  ):
    super().__init__(message)
    self.code = code
    self.shared = shared


def usage_error(message: str) -> XpoError:
  return XpoError(message, Exit.USAGE)


def data_error(message: str) -> XpoError:
  return XpoError(message, Exit.DATA)


def checkpoint_error(message: str) -> XpoError:
  return XpoError(message, Exit.CHECKPOINT)


def numeric_error(message: str) -> XpoError:
  return XpoError(message, Exit.NUMERIC)


def storage_error(message: str) -> XpoError:
  return XpoError(message, Exit.STORAGE)


def first_line(e: BaseException) -> str:
  """What matters of an error, which is what it says first."""
  return (str(e).strip().split("\n") or [""])[0][:200] or type(e).__name__
