"""Expected ratings."""

import numpy as np
import pytest

from tests.judges.stand_ins import candidates, shown
from xpo_jax.judges import rating


def of(p):
  with np.errstate(divide="ignore"):
    return rating.expected_rating(np.log(p))


def test_golden():
  p = np.zeros(10)
  p[4:9] = 0.1, 0.2, 0.3, 0.3, 0.1
  assert of(p) == pytest.approx(0.3555555556, abs=1e-10)
  assert of(p * 1e-9) == pytest.approx(0.3555555556, abs=1e-10)


def test_ends_and_middle():
  sure = np.eye(10)
  assert of(sure[0]) == -1 and of(sure[9]) == 1
  assert of(np.ones(10)) == pytest.approx(0, abs=1e-12)


def test_no_number():
  assert np.isnan(rating.expected_rating(np.full(10, -np.inf)))
  assert np.isnan(rating.expected_rating(np.r_[np.zeros(9), np.nan]))


def test_the_judge_asks_for_ten_labels():
  asked = []

  def ask(questions):
    asked.extend(questions)
    rows = {"good": 8, "bad": 1}
    return [
      np.full(10, np.nan)
      if shown(q)["Answer"] == "odd"
      else np.log(np.eye(10)[rows[shown(q)["Answer"]]] + 1e-300)
      for q, _ in questions
    ]

  present = np.array([[True, True], [True, False]])
  found = rating.language_model(ask)(
    candidates(("good", "bad"), ("odd", "x"), present=present)
  )
  wanted = [[3.5 / 4.5, -3.5 / 4.5], [np.nan, np.nan]]
  np.testing.assert_allclose(found.scores, wanted)
  assert found.asked == 3 and found.invalid == {"not_finite": 1}
  question, labels = asked[0]
  assert labels == ("1", "2", "3", "4", "5", "6", "7", "8", "9", "10")
  assert shown(question) == {"Request": "p0?", "Answer": "good"}
