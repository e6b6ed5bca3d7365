"""Judges that training never sees: two sentiment lexicons.

Both are optional (extra `demo`) and loaded at the first use. VADER's lexicon
shares its authors with the film ratings that training uses; TextBlob's does
not: say so beside every VADER figure.
"""

from collections.abc import Sequence
import functools

import numpy as np

from xpo_jax.errors import usage_error


def vader(texts: Sequence[str]) -> np.ndarray:
  """[texts] VADER compound scores, -1 (negative) .. 1 (positive).

  Raises:
    XpoError: vaderSentiment is not installed.

  Reference: Hutto and Gilbert, VADER: a parsimonious rule-based model for
  sentiment analysis of social media text, 2014.
  """
  judge = _vader_judge()
  return np.asarray([judge.polarity_scores(t)["compound"] for t in texts])


def textblob(texts: Sequence[str]) -> np.ndarray:
  """[texts] TextBlob polarities, -1 .. 1; its lexicon needs no download.

  Raises:
    XpoError: textblob is not installed.
  """
  blob = _textblob_class()
  return np.asarray([blob(t).sentiment.polarity for t in texts], np.float64)


SCORERS = {"VADER": vader, "TextBlob": textblob}


@functools.cache
def _vader_judge():
  try:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
  except ImportError as error:
    raise _missing("vaderSentiment") from error
  return SentimentIntensityAnalyzer()


@functools.cache
def _textblob_class():
  try:
    from textblob import TextBlob
  except ImportError as error:
    raise _missing("textblob") from error
  return TextBlob


def _missing(package: str) -> Exception:
  return usage_error(
    f"gold scores: package {package} is not installed; "
    "pip install 'xpo_jax[demo]'"
  )
