"""Stop strings, found while sampling: an automaton over the tokens' bytes.

A stop string may begin and end inside of tokens. So all of them become one
automaton over bytes (Aho and Corasick 1975), and its walk over each token's
bytes one table: a step of the sampler is one look-up a slot.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from xpo_jax.errors import usage_error
from xpo_jax.types import Array


def stop_table(pieces: Sequence[bytes], stops: Sequence[str]) -> np.ndarray:
  """int32 [n, V]: the state after each token, n once a stop string is there.

  Args:
    pieces: the bytes of every token, V of them.
    stops: texts, none of them empty.

  Raises:
    XpoError: a stop string that is empty or no text.
  """
  for stop in stops:
    if not (isinstance(stop, str) and stop):
      raise usage_error(f"stop={stop!r}: must be a text that is not empty")
  moves = _automaton([stop.encode("utf-8") for stop in stops])
  table = np.empty((len(moves) - 1, len(pieces)), np.int32)
  table[:] = np.arange(len(moves) - 1)[:, None]
  lengths = np.array([len(piece) for piece in pieces])
  for at in range(lengths.max(initial=0)):
    longer = np.flatnonzero(lengths > at)
    now = np.array([pieces[v][at] for v in longer])
    table[:, longer] = moves[table[:, longer], now]
  return table


def _automaton(stops: list[bytes]) -> np.ndarray:
  """int [n + 1, 256] moves; the last state is a stop string's end, for ever."""
  children, ends = [{}], set()
  for stop in stops:
    at = 0
    for byte in stop:
      if byte not in children[at]:
        children[at][byte] = len(children)
        children.append({})
      at = children[at][byte]
    ends.add(at)
  moves = np.zeros((len(children), 256), int)
  queue = [(child, byte, 0) for byte, child in children[0].items()]
  for child, byte, _ in queue:
    moves[0, byte] = child
  for at, _, fallback in queue:  # by depth: a fallback's moves are complete
    if fallback in ends:
      ends.add(at)
    moves[at] = moves[fallback]
    for byte, child in children[at].items():
      queue.append((child, byte, int(moves[fallback, byte])))
      moves[at, byte] = child
  live = [s for s in range(len(moves)) if s not in ends]
  number = np.full(len(moves), len(live))
  number[live] = np.arange(len(live))
  end = np.full((1, 256), len(live))
  return np.concatenate([number[moves[live]], end])


def follow(table: Array | None, state: Array, token: Array):
  """(next state, whether a stop string is complete), both [...]."""
  if table is None:
    return state, jnp.zeros(state.shape, bool)
  after = table[jnp.minimum(state, table.shape[0] - 1), token]
  return after, after == table.shape[0]


def cut(text: str, stops: Sequence[str]) -> str:
  """The text before the first stop string in it."""
  found = [at for stop in stops if (at := text.find(stop)) >= 0]
  return text[: min(found)] if found else text
