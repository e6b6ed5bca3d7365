"""Rewards by rule."""

import numpy as np
import pytest

from tests.judges.stand_ins import candidates
from xpo_jax.errors import Exit, XpoError
from xpo_jax.judges import rules


def scores(judge, *texts, **more):
  found = judge(candidates(texts, **more))
  assert found.asked == len(texts) and not found.invalid
  return found.scores[0].tolist()


def test_exact_match():
  judge = rules.exact_match({"p0?": ["Paris", "paris, France"]})
  found = scores(judge, " paris. ", "PARIS", "Paris,  France!", "Rome", "")
  assert found == [1, 1, 1, 0, 0]


@pytest.mark.parametrize(
  "known, same, others",
  [
    (".5", [" .5", ".5.", '".5"'], ["5", "0.5 ", ""]),
    ("C++", ["c++", "C++!", "'C++'."], ["C", "C#", "++"]),
    ("$5", ["$5."], ["5", "5%"]),
    ("?", [" ?"], ["", "!", ".", '"', "..."]),
    (
      "Is it?",
      ['"is  it"', "\u201cIs it?\u201d", "\u00abis it\u00bb."],
      ["is"],
    ),
    ("1,000", ["1000", "1,000."], ["1.000", "100"]),
  ],
)
def test_signs_are_part_of_an_answer(known, same, others):
  judge = rules.exact_match({"p0?": known})
  wanted = [1] * len(same) + [0] * len(others)
  assert scores(judge, *same, *others) == wanted


def test_final_answer():
  """Known answers with their solution before them, or alone."""
  texts = ("a\n#### 72", "72", "####72.\nok", "#### 7 #### 72 \n", "#### 72 7",
           "##### 72", "#### 72 #### 1", "####")  # fmt: skip
  for known in ("48 / 2 = 24\n#### 72", "72", ["1", "#### 72"]):
    judge = rules.final_answer({"p0?": known})
    right = [1, 0, 1, 1, 0, 1, float("1" in known), 0]
    assert scores(judge, *texts) == right
  with pytest.raises(XpoError, match="nothing after the last '####' of") as e:
    rules.final_answer({"p0?": ["1", "so #### "]})
  assert e.value.code == Exit.DATA


def test_exact_match_of_the_last_number():
  judge = rules.exact_match({"p0?": "1000"}, r"####\s*(-?[\d,]+)")
  texts = ("so 7 #### 1,000", "#### 5 no: #### 1000", "#### 1000 #### 5")
  assert scores(judge, *texts, "1000") == [1, 1, 0, 0]
  minus = rules.exact_match({"p0?": "-5"})
  assert scores(minus, "-5", "5", "- 5") == [1, 0, 0]


def test_exact_match_needs_an_answer():
  with pytest.raises(XpoError, match="no known answer to 'p0.'"):
    rules.exact_match({})(candidates(("x",)))
  with pytest.raises(XpoError, match="no group"):
    rules.exact_match({}, "x")
  with pytest.raises(XpoError, match="mend the expression") as e:
    rules.exact_match({}, "(")
  assert e.value.code == Exit.USAGE


def test_length():
  words = rules.length(2, 4)
  texts = ("a", "a b", "a b c d", "a b c d e", "a " * 9, "")
  assert scores(words, *texts) == [0.5, 1, 1, 0.75, 0, 0]
  assert scores(rules.length(3, 3, "characters"), " ab ", "abc") == [2 / 3, 1]
  for bad in ({"low": 0, "high": 2}, {"low": 3, "high": 2}):
    with pytest.raises(XpoError, match="1 <= low <= high"):
      rules.length(**bad)
  with pytest.raises(XpoError, match="choose characters or words"):
    rules.length(1, 2, "tokens")


def test_format():
  judge = rules.format_match(r"<think>.*</think>\s*\S.*")
  texts = (
    "<think>a\nb</think> c",
    " <think></think>c ",
    "c",
    "x <think></think>c",
  )
  assert scores(judge, *texts, "<think></think>") == [1, 1, 0, 0, 0]


def test_sentiment():
  squash = lambda s: s / np.sqrt(s * s + 15)
  found = scores(
    rules.sentiment(),
    "A great film.",
    "not a great film",
    "very GREAT, and boring",
    "It isn\u2019t awful",
    "the film",
    "no plot and then at last it is great",
  )
  wanted = [2, -1.5, 3 - 2, 2.25, 0, 2]
  np.testing.assert_allclose(found, [squash(s) for s in wanted], rtol=1e-12)


def test_absent_ones_have_no_score():
  present = np.array([[True, False]])
  found = rules.length(1, 9)(candidates(("a", "b"), present=present))
  assert found.scores[0, 0] == 1 and np.isnan(found.scores[0, 1])
  assert found.asked == 1
