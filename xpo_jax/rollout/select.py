"""Which of the sampled completions a prompt's group keeps.

Letters: B prompts, K candidates, n wanted, P passes; G groups of J completions
that a prompt yields. Everything is arrays of indices: texts never move.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from xpo_jax.types import Array


class Selection(NamedTuple):
  """Completions by their index; what is not kept has index 0.

  The first of a pair is the better one.
  """

  index: Array  # int32 [B, G, J]
  kept: Array  # bool [B, G, J]


class Rejection(NamedTuple):
  """What statistical rejection sampling accepted, in that order."""

  index: Array  # int32 [B, n], 0 where not kept
  kept: Array  # bool [B, n]
  passes: Array  # int32 [B] over the remaining candidates
  first_rate: Array  # f32 [B] share of candidates that pass 1 would accept

  @property
  def selection(self) -> Selection:
    """One group of all that was accepted."""
    return Selection(self.index[:, None], self.kept[:, None])


def keep_all(scores: Array, valid: Array) -> Selection:
  """scores [B, K], valid bool [B, K] -> one group of all valid ones."""
  valid = valid & jnp.isfinite(scores)
  index = lax.broadcasted_iota(jnp.int32, scores.shape, 1)
  return Selection(jnp.where(valid, index, 0)[:, None], valid[:, None])


def best_worst(scores: Array, valid: Array) -> Selection:
  """The pair (argmax, argmin); ties go to the lowest index.

  Nothing is kept where all valid scores are equal or only one is valid.

  Args:
    scores: [B, K]; one that is not finite is not valid.
    valid: bool [B, K]; pass `first_occurrences` too, so that a text never
      meets itself.
  """
  valid = valid & jnp.isfinite(scores)
  high = jnp.where(valid, scores, -jnp.inf)
  low = jnp.where(valid, scores, jnp.inf)
  differ = jnp.max(high, axis=-1) > jnp.min(low, axis=-1)
  pair = jnp.stack([jnp.argmax(high, -1), jnp.argmin(low, -1)], axis=-1)
  return _groups(pair[:, None], differ[:, None])


def best_of_n(scores: Array, valid: Array) -> Selection:
  """The single best one, of equals the first; nothing where none is valid."""
  valid = valid & jnp.isfinite(scores)
  best = jnp.argmax(jnp.where(valid, scores, -jnp.inf), axis=-1)
  return _groups(best[:, None, None], jnp.any(valid, axis=-1)[:, None])


def accept_probability(scores: Array, highest: Array, beta: Array) -> Array:
  """exp((r - r_max) / beta), 1 at the maximum whatever beta in [0, inf]."""
  gap = jnp.where(scores == highest, 0.0, (scores - highest) / beta)
  return jnp.exp(gap)


def rejection_sample(
  scores: Array,
  valid: Array,
  uniforms: Array,
  count: int,
  beta: float | Array,
) -> Rejection:
  """Statistical rejection sampling, the sequential algorithm bit for bit.

    while fewer than n are accepted: r_max = max of the remaining rewards; for
    each remaining candidate c in order: accept it if U < exp((r_c - r_max) /
    beta), stop at n; then remove the accepted ones.

  A pass accepts its maximum at least, so n passes suffice. beta = 0 takes the n
  highest (ties in order), beta = inf the first n. n is at most the number of
  valid candidates.

  Args:
    scores: f32 [B, K] rewards; one that is not finite is not valid.
    valid: bool [B, K] present and the first of its text.
    uniforms: f32 [B, P, K] in [0, 1), P >= n; [p, c] decides on c in pass p.
    count: n.
    beta: temperature of the target pi_ref exp(r / beta), >= 0.

  Raises:
    ValueError: fewer than n passes of uniforms.

  Source: Liu et al. 2023, arXiv 2309.06657, algorithm 1; methods.md 4.2.
  """
  if uniforms.shape[1] < count:
    raise ValueError(f"{uniforms.shape[1]} passes of uniforms; want {count}")
  draw = lambda p: lax.dynamic_index_in_dim(uniforms, p, 1, keepdims=False)
  return _rejection(scores, valid, draw, count, beta)


def sample_rejection(
  key: Array,
  scores: Array,
  valid: Array,
  count: int,
  beta: float | Array,
  rows: Array | None = None,
) -> Rejection:
  """`rejection_sample` with uniforms drawn from a key, pass by pass.

  Args:
    key: the noise of a prompt depends on it and rows[b] only.
    scores: see `rejection_sample`; so are valid, count and beta.
    rows: int32 [B] global prompt numbers; 0..B-1 if None.
  """
  rows = jnp.arange(scores.shape[0]) if rows is None else rows
  keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
  one = lambda own: jax.random.uniform(own, scores.shape[1:])
  draw = lambda p: jax.vmap(lambda own: one(jax.random.fold_in(own, p)))(keys)
  return _rejection(scores, valid, draw, count, beta)


class _Carry(NamedTuple):
  remaining: Array  # f32 [B, K] scores, -inf for what is out
  place: Array  # int32 [B, K] order of acceptance, n = not accepted
  found: Array  # int32 [B]
  number: Array  # int32 [] of the pass
  passes: Array  # int32 [B]
  first_rate: Array  # f32 [B]


def _rejection(
  scores: Array,
  valid: Array,
  draw: Callable[[Array], Array],
  count: int,
  beta: float | Array,
) -> Rejection:
  """All prompts at once; one that has its n takes no part in later passes."""
  valid = valid & jnp.isfinite(scores)
  beta = jnp.asarray(beta, scores.dtype)
  sizes = jnp.sum(valid, axis=-1, dtype=jnp.int32)
  want = jnp.minimum(count, sizes)

  def one_pass(c: _Carry) -> _Carry:
    highest = jnp.max(c.remaining, axis=-1, keepdims=True)
    p = accept_probability(c.remaining, highest, beta)
    passed = draw(c.number) < p
    running = c.found[:, None] + _running_count(passed)
    taken = passed & (running <= want[:, None])
    rate = jnp.sum(passed & valid, axis=-1) / jnp.maximum(1, sizes)
    return _Carry(
      remaining=jnp.where(taken, -jnp.inf, c.remaining),
      place=jnp.where(taken, running - 1, c.place),
      found=jnp.minimum(want, running[:, -1]),
      number=c.number + 1,
      passes=c.passes + (c.found < want),
      first_rate=jnp.where(c.number == 0, rate, c.first_rate),
    )

  none = jnp.zeros(sizes.shape, jnp.int32)
  start = _Carry(
    remaining=jnp.where(valid, scores, -jnp.inf),
    place=jnp.full(scores.shape, count, jnp.int32),
    found=none,
    number=jnp.zeros((), jnp.int32),
    passes=none,
    first_rate=none.astype(jnp.float32),
  )
  end = lax.while_loop(lambda c: jnp.any(c.found < want), one_pass, start)
  # Comparing with every place is far cheaper than sorting the places.
  shape = (len(scores), count)
  places = lax.broadcasted_iota(jnp.int32, shape, 1)
  same = end.place[:, None] == places[..., None]
  kept = places < want[:, None]
  index = jnp.where(kept, jnp.argmax(same, axis=-1), 0).astype(jnp.int32)
  return Rejection(index, kept, end.passes, end.first_rate)


def _running_count(x: Array) -> Array:
  """bool [B, K] -> int32 [B, K], the cumulative sum of at most 2^24 ones.

  One product with a triangle: less than half the time of `cumsum`, and exact.
  """
  ones = jnp.triu(jnp.ones((x.shape[-1],) * 2, jnp.float32))
  return jnp.dot(x.astype(jnp.float32), ones).astype(jnp.int32)


def first_occurrences(
  texts: Sequence[Sequence[str]], present: np.ndarray | None = None
) -> np.ndarray:
  """bool [B, K]: present, and no earlier present one has the same text."""
  first = np.zeros((len(texts), len(texts[0])), bool)
  for b, own in enumerate(texts):
    seen: set[str] = set()
    for k, text in enumerate(own):
      if present is None or present[b, k]:
        first[b, k] = text not in seen
        seen.add(text)
  return first


def first_round(accepted: Selection, wins: Array, uniforms: Array) -> Selection:
  """First-round ranking: shuffled, n // 2 disjoint pairs, each labelled once.

  Args:
    accepted: G = 1 and J = n completions a prompt.
    wins: [B, K, K] P(i beats j). 1/2: the first of the shuffled pair wins. A
      pair whose P is NaN is not kept.
    uniforms: [B, n] the completions meet in the order of these.

  Returns:
    n // 2 pairs (winner, loser).
  """
  index, kept = accepted.index[:, 0], accepted.kept[:, 0]
  order = jnp.argsort(jnp.where(kept, uniforms, jnp.inf), -1, stable=True)
  index = jnp.take_along_axis(index, order, axis=-1)
  kept = jnp.take_along_axis(kept, order, axis=-1)
  half = index.shape[-1] // 2
  played = _play(index[:, : 2 * half], kept[:, : 2 * half], wins)
  pair = jnp.stack([played.winner, played.loser], axis=-1)
  return _groups(pair, played.judged)


def tournament(
  accepted: Selection, wins: Array
) -> tuple[Selection, Array, Array]:
  """Knockout: neighbours meet, winners go on, an odd one gets a bye.

  Ties go to the earlier one, and so does a game whose P is NaN, but that one
  gives no pair.

  Args:
    accepted: G = 1 and J = n completions, in the order of the bracket.
    wins: [B, K, K] P(i beats j).

  Returns:
    n - 1 pairs (winner, loser), round by round; the index [B] of the final
    winner, and bool [B] whether there is one.

  Source: Liu et al. 2023, arXiv 2309.06657, section 3; Zhao et al. 2023, arXiv
  2305.10425, section 3.
  """
  index, kept = accepted.index[:, 0], accepted.kept[:, 0]
  # Present ones move to the front, so that a bye is the last one's.
  order = jnp.argsort(~kept, axis=-1, stable=True)
  index = jnp.take_along_axis(index, order, axis=-1)
  kept = jnp.take_along_axis(kept, order, axis=-1)
  pairs, judged = [], []
  while index.shape[-1] > 1:
    if index.shape[-1] % 2:
      index = jnp.pad(index, ((0, 0), (0, 1)))
      kept = jnp.pad(kept, ((0, 0), (0, 1)))
    played = _play(index, kept, wins)
    pairs.append(jnp.stack([played.winner, played.loser], axis=-1))
    judged.append(played.judged)
    index, kept = played.winner, kept[:, ::2]
  if not pairs:
    pairs = [jnp.zeros((len(index), 0, 2), jnp.int32)]
    judged = [jnp.zeros((len(index), 0), bool)]
  games = _groups(jnp.concatenate(pairs, 1), jnp.concatenate(judged, 1))
  # Padding of odd rounds plays no game: at most n - 1 columns are real.
  most = max(0, accepted.index.shape[-1] - 1)
  order = jnp.argsort(~games.kept[..., 0], axis=-1, stable=True)[:, :most]
  games = jax.tree.map(
    lambda x: jnp.take_along_axis(x, order[..., None], axis=1), games
  )
  return games, index[:, 0], kept[:, 0]


class _Played(NamedTuple):
  winner: Array  # int32 [B, m // 2]
  loser: Array
  judged: Array  # bool: both were there, and P is a number


def _play(index: Array, kept: Array, wins: Array) -> _Played:
  """Neighbours of index [B, m], m even, meet."""
  first, second = index[:, ::2], index[:, 1::2]
  row = jnp.arange(index.shape[0])[:, None]
  p = wins[row, first, second]
  both = kept[:, ::2] & kept[:, 1::2]
  lost = both & (p < 0.5)
  return _Played(
    jnp.where(lost, second, first),
    jnp.where(lost, first, second),
    both & ~jnp.isnan(p),
  )


def _groups(index: Array, kept: Array) -> Selection:
  """index [B, G, J] and kept [B, G] -> Selection."""
  kept = jnp.broadcast_to(kept[..., None], index.shape)
  return Selection(jnp.where(kept, index, 0).astype(jnp.int32), kept)
