import math

import numpy as np
import pytest

from xpo_jax.evals import text


def test_distinct_n_by_hand():
  # Bigrams: (a b) (b c) | (a b) (b d): 3 of 4 differ; none crosses texts.
  assert text.distinct_n(["a b c", "A  B d"], 2) == 3 / 4
  # Unigrams: a b c | a b d: 4 of 6.
  assert text.distinct_n(["a b c", "a b d"], 1) == 4 / 6
  assert math.isnan(text.distinct_n(["one", ""], 2))


def test_repetition_by_hand():
  # "x y x y x y": 4-grams xyxy, yxyx, xyxy: 1 of 3 said before.
  found = text.repetition(["x y x y X y", "a b c d e", "a a a", ""])
  np.testing.assert_allclose(found, [1 / 3, 0, 0, 0])
  # "funny , funny and funny": 3 of 5 differ.
  assert text.repetition(["funny , funny and funny"], n=1)[0] == 1 - 3 / 5


def test_length_counts_white_space_tokens():
  assert text.length(["a  b\nc", ""]).tolist() == [3.0, 0.0]


def test_identical_share_counts_twins():
  assert text.identical_share(["a b", "A  b", "c", "d"]) == 2 / 4
  assert text.identical_share(["same"] * 5) == 1.0
  assert text.identical_share(["a", "b"]) == 0.0
  assert math.isnan(text.identical_share([]))


def test_words_are_letters_with_inner_apostrophes():
  found = text.words("It's the film’s 3-D “café” don't, 'quoted'!")
  assert found == ["it", "the", "film", "d", "café", "don't", "quoted"]


def test_broken_words_by_hand():
  known = text.vocabulary(["An oddly awesome film.", "It is the film's end"])
  # oddly | bawesome: 1 of 2; the end: 0 of 2; no words: undefined.
  found = text.broken_words(["Oddly-bawesome", "THE END!", "7.5%"], known)
  assert found[:2].tolist() == [0.5, 0.0]
  assert math.isnan(found[2])


@pytest.mark.parametrize("measure", [text.repetition, text.length])
def test_no_texts_give_no_numbers(measure):
  assert measure([]).shape == (0,)
