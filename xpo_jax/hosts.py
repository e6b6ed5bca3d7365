"""What one process of a run does alone, and all of them learn.

Files that grow and questions that cost something are process 0's. What comes
of them must be the same everywhere: processes that go on from different
numbers wait for one another forever.
"""

from collections.abc import Callable
import json
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from xpo_jax.errors import Exit, XpoError, first_line, storage_error

LEAST = 2**16  # bytes of one broadcast; longer ones are powers of two


def first(make: Callable[[], Any]) -> Any:
  """What `make()` gives on process 0, on all processes; all must call it.

  Args:
    make: called on process 0 only. With several processes its value must be a
      tree of what JSON has; numbers come back to the bit.

  Raises:
    XpoError: that `make` raises, on all processes, marked as shared; an OSError
      is one of storage (74). Anything else is process 0's own.
  """
  if jax.process_count() == 1:
    return make()
  told, error = b"", None
  if jax.process_index() == 0:
    told, error = _outcome(make)
  found = json.loads(say(told))
  if found["code"]:
    raise XpoError(found["value"], Exit(found["code"]), shared=True) from error
  return found["value"]


def _outcome(make) -> tuple[bytes, Exception | None]:
  code, caught = 0, None
  try:
    value = make()
  except (XpoError, OSError) as e:
    caught = e
    if isinstance(e, OSError):
      where = f"{e.filename}: " if e.filename else ""
      e = storage_error(f"{where}{e.strerror or first_line(e)}")
    code, value = int(e.code), str(e)
  return json.dumps({"code": code, "value": value}).encode(), caught


def say(told: bytes) -> bytes:
  """Process 0's bytes on all processes; the others' own do not count."""
  send = multihost_utils.broadcast_one_to_all
  size = int(send(np.int32(len(told))))
  room = max(LEAST, 1 << (size - 1).bit_length()) if size else LEAST
  whole = np.zeros(room, np.uint8)
  own = np.frombuffer(told, np.uint8)[:size]
  whole[: len(own)] = own
  return np.asarray(send(whole))[:size].tobytes()
