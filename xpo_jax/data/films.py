"""The embedded default: human preferences between two critics on one film.

The labels are human sentiment ratings turned into preferences: the snippet
that its raters found more positive is chosen.
"""

import functools
import itertools
import zlib

import numpy as np

from xpo_jax.data import film_join, ratings
from xpo_jax.data.film_join import Snippet
from xpo_jax.data.records import Account, Group
from xpo_jax.errors import usage_error
from xpo_jax.types import Feedback

MAX_USES = 4  # pairs that one snippet may be in
LIST_SIZE = 4
NEUTRAL = 0.5  # nearer to the threshold is neither thumb up nor down


def film_prompt(film: str) -> str:
  """The prompt of a film; completions start with the space after it."""
  return f"Film: {film_join.title(film)}\nCritic:"


def film_prompts(split: str, limit: int = 0) -> list[Group]:
  """One prompt a film of the split, sorted by name, without completions."""
  films = sorted({s.film for s in snippets(split)})
  return [
    Group(film, film_prompt(film), (), (), Feedback.DEMONSTRATION, film)
    for film in films[: limit or None]
  ]


def load_films(
  split: str, kind: str = "pairs", **keywords
) -> tuple[list[Group], Account]:
  """`groups_of` on the snippets of a split.

  Raises:
    XpoError: (64) no such split or kind; (74) the packages cannot be fetched.
  """
  return groups_of(snippets(split), kind, **keywords)


def film_ratings(split: str) -> list[list[tuple[int, ...]]]:
  """The raw ratings of every snippet, by film."""
  films = itertools.groupby(snippets(split), key=lambda s: s.film)
  return [[s.ratings for s in own] for _, own in films]


@functools.cache
def snippets(split: str) -> tuple[Snippet, ...]:
  """All snippets of a split, sorted by film, then text."""
  if split not in film_join.SPLITS:
    raise usage_error(
      f"data.split={split!r} of films: choose {', '.join(film_join.SPLITS)}"
    )
  from xpo_jax.data import film_builder  # tfds takes seconds to import

  return tuple(film_builder.read(split))


def groups_of(
  rows: tuple[Snippet, ...],
  kind: str,
  min_gap: float = 1.0,
  threshold: float = 0.0,
  max_pairs_per_film: int = 32,
  limit: int = 0,
  seed: int = 0,
  first: int = 0,
) -> tuple[list[Group], Account]:
  """Groups out of rated snippets, shuffled by `seed`, cluster = film.

  Args:
    rows: sorted by film.
    kind: pairs (ORDER), soft (PROBABILITY: the share of rater pairs that put
      the first higher, ties half), texts (DEMONSTRATION), binary (BINARY,
      mean rating above or below `threshold`; those nearer than 0.5 dropped) or
      lists (SCORE, up to 4 snippets a list, each snippet once).
    min_gap: of the mean ratings in a pair, rating points, > 0.
    threshold: of `binary`, -4..4.
    max_pairs_per_film: cap; a snippet is in at most 4 pairs.
    limit: groups at most, 0 = all.
    seed: of the sampling; a film's pairs do not depend on other films.
    first: groups left out before those, of the same order.

  Returns:
    groups and the account of the candidates (pairs, snippets or lists).
  """
  if kind not in ratings.KINDS:
    raise usage_error(
      f"data.format={kind!r} of films: choose auto, {', '.join(ratings.KINDS)}"
    )
  account, groups = Account(), []
  for film, found in itertools.groupby(rows, key=lambda s: s.film):
    own = list(found)
    rng = np.random.default_rng([seed, zlib.crc32(film.encode("utf-8"))])
    if kind in ("pairs", "soft"):
      chosen = sample_pairs(own, min_gap, max_pairs_per_film, rng, account)
      groups += [_pair(own, i, j, kind) for i, j in chosen]
    elif kind == "lists":
      groups += _lists(own, rng, account)
    else:
      groups += _singles(own, kind, threshold, account)
  order = np.random.default_rng(seed).permutation(len(groups))
  order = order[first:][: limit or None]
  if len(order) < len(groups):
    account.dropped["limit"] += len(groups) - len(order)
  groups = [groups[i] for i in order]
  account.used = len(groups)
  account.check()
  return groups, account


def sample_pairs(
  own: list[Snippet],
  min_gap: float,
  cap: int,
  rng: np.random.Generator,
  account: Account,
) -> list[tuple[int, int]]:
  """(better, worse) places into one film's snippets, at most `cap`."""
  wide = ratings.wide_pairs([s.mean for s in own], min_gap)
  every = len(own) * (len(own) - 1) // 2
  account.read += every
  account.dropped["small_gap"] += every - len(wide)
  uses, taken = [0] * len(own), []
  for place in rng.permutation(len(wide)):
    i, j = wide[place]
    if len(taken) < cap and max(uses[i], uses[j]) < MAX_USES:
      uses[i] += 1
      uses[j] += 1
      taken.append((i, j))
  account.dropped["not_sampled"] += len(wide) - len(taken)
  return taken


def _pair(own: list[Snippet], i: int, j: int, kind: str) -> Group:
  feedback, meaning = (1.0, 0.0), Feedback.ORDER
  if kind == "soft":
    shares = ratings.win_shares((own[i].ratings, own[j].ratings))
    feedback, meaning = (
      (float(shares[0, 1]), float(shares[1, 0])),
      Feedback.PROBABILITY,
    )
  return _group(own, (i, j), feedback, meaning, f"{i + 1}>{j + 1}")


def _lists(own: list[Snippet], rng, account: Account) -> list[Group]:
  order = rng.permutation(len(own)).tolist()
  lists = [order[i : i + LIST_SIZE] for i in range(0, len(order), LIST_SIZE)]
  whole = [places for places in lists if len(places) > 1]
  account.read += len(lists)
  account.dropped["single"] += len(lists) - len(whole)
  return [
    _group(
      own,
      places,
      tuple(own[i].mean for i in places),
      Feedback.SCORE,
      ",".join(str(i + 1) for i in places),
    )
    for places in whole
  ]


def _singles(
  own: list[Snippet], kind: str, threshold: float, account: Account
) -> list[Group]:
  groups = []
  for i, snippet in enumerate(own):
    account.read += 1
    value, meaning = 1.0, Feedback.DEMONSTRATION
    if kind == "binary":
      value = ratings.thumb(snippet.mean, threshold, NEUTRAL)
      meaning = Feedback.BINARY
    if not value:
      account.dropped["neutral"] += 1
      continue
    groups.append(_group(own, (i,), (value,), meaning, f"{i + 1}"))
  return groups


def _group(own: list[Snippet], places, feedback, kind, name: str) -> Group:
  film = own[0].film
  return Group(
    id=f"{film}/{name}",
    prompt=film_prompt(film),
    completions=tuple(f" {own[i].text}" for i in places),
    feedback=tuple(feedback),
    kind=kind,
    cluster=film,
  )
