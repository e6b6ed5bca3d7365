import sys

import pytest

from xpo_jax.errors import Exit, XpoError
from xpo_jax.evals import gold

TEXTS = ["A wonderful, moving film.", "dull and lifeless", ""]


@pytest.fixture
def unloaded():
  caches = (gold._vader_judge, gold._textblob_class)
  for cache in caches:
    cache.cache_clear()
  yield
  for cache in caches:
    cache.cache_clear()


@pytest.mark.parametrize("name", ["VADER", "TextBlob"])
def test_scores_have_the_sign_of_the_text(name):
  good, bad, empty = gold.SCORERS[name](TEXTS)
  assert 0.2 < good <= 1.0
  assert -1.0 <= bad < -0.2
  assert empty == 0.0


def test_vader_normalises_valences_as_its_paper_says():
  # "good" has valence 1.9: compound = v / sqrt(v^2 + 15), to four places.
  assert gold.vader(["good"])[0] == round(1.9 / (1.9**2 + 15) ** 0.5, 4)


def test_textblob_averages_its_lexicon():
  # "good" 0.7, "bad" -0.7 (mean of their senses): average 0.
  assert gold.textblob(["good"])[0] == pytest.approx(0.7)
  assert gold.textblob(["good", "good bad"])[1] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
  "module, score",
  [("vaderSentiment.vaderSentiment", gold.vader), ("textblob", gold.textblob)],
)
def test_a_missing_package_is_one_line_with_the_mend(
  monkeypatch, unloaded, module, score
):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(
    XpoError, match=r"pip install 'xpo_jax\[demo\]'"
  ) as caught:
    score(TEXTS)
  assert caught.value.code == Exit.USAGE
  assert "\n" not in str(caught.value)
