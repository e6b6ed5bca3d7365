"""The page of coloured tokens."""

import dataclasses

import numpy as np
import pytest

from tests.report_test import ATTACK, Page
from tests.score_rows_test import BYTES, ids_of, scored
from xpo_jax import score_page, score_rows
from xpo_jax.score_rows import Scored
from xpo_jax.types import Feedback


def page_of(*samples: Scored, **changes) -> str:
  groups = [s.group for s in samples]
  page = {
    "title": "Token credit: " + ATTACK,
    "facts": {"reward": "0.1 x " + ATTACK},
    "summary": score_rows.summarise(groups, [s.rewards for s in samples]),
    "reward": "implicit reward",
    "reference": True,
    "samples": samples,
    "total": 9,
    "tokenizer": BYTES,
  }
  return score_page.render(page | changes)


def with_text(text: str) -> Scored:
  """A pair whose second completion is `text`, with made-up numbers."""
  one, ids = scored(), ids_of(text)
  numbers = [np.zeros(3), np.arange(1.0, len(ids) + 1)]
  tokens = dataclasses.replace(
    one.tokens, completions=(one.tokens.completions[0], ids)
  )
  return dataclasses.replace(
    one,
    tokens=tokens,
    credits=numbers,
    logps=numbers,
    reference_logps=numbers,
  )


def test_texts_are_shown_and_never_run():
  page = Page(page_of(with_text(ATTACK)))
  assert not {"script", "img", "link", "iframe"} & set(page.tags)
  spans = [v for t, n, v in page.attributes if (t, n) == ("span", "data-tip")]
  assert len(spans) == 3 + len(ATTACK)
  letters = page.text.replace(" ", "")
  assert letters.count("<script>alert(1)</script>") == 4
  loading = {"src", "href", "srcset", "data", "action", "background"}
  assert not [n for _, n, _ in page.attributes if n in loading]


def test_pairs_stand_side_by_side_with_their_numbers():
  page = Page(page_of(scored()))
  words = " ".join(page.text.split())
  assert "1 of 9 rows" in words and "✓ ranked as the feedback" in words
  assert "margin +0.750" in words
  first = words.index("chosen implicit reward +0.500 3 tokens")
  assert first < words.index("rejected implicit reward -0.250 1 tokens, cut")
  assert "user: q" in words and "<|im_end|>" in words
  tips = [v for _, n, v in page.attributes if n == "data-tip"]
  assert tips[0] == "credit +0.2500  log pi -1.00  log ref -2.00"
  assert "accuracy 100.0%" in words


def test_parts_of_a_character_are_one_piece():
  source = page_of(with_text("é\n"))
  tips = [v for _, n, v in Page(source).attributes if n == "data-tip"]
  # C3 A9 have credits 1 and 2, the line break 3.
  assert tips[3:] == [
    "credit +3.0000  log pi 3.00  log ref 3.00  2 tokens",
    "credit +3.0000  log pi 3.00  log ref 3.00",
  ]
  assert "↵\n" in source


def test_whole_rewards_have_no_colours():
  one = dataclasses.replace(
    scored(Feedback.SCORE, (2.0, 7.0)), credits=None, logps=None
  )
  page = Page(page_of(one, reference=False, reward="reward"))
  words = " ".join(page.text.split())
  assert not [n for _, n, _ in page.attributes if n == "data-tip"]
  assert "no token has a part of it" in words and "ab" in words
  assert "score 2 reward +0.500" in words and "✗ ranked otherwise" in words


@pytest.mark.parametrize(
  "kind, feedback, labels",
  [
    (Feedback.BINARY, (1.0, -1.0), ("desirable", "undesirable")),
    (Feedback.PROBABILITY, (0.25, 0.75), ("wins with 25%", "wins with 75%")),
    (Feedback.MARGIN, (2.0, 0.0), ("chosen", "rejected")),
    (Feedback.DEMONSTRATION, (1.0, 1.0), ("completion", "completion")),
  ],
)
def test_every_feedback_has_its_words(kind, feedback, labels):
  words = " ".join(Page(page_of(scored(kind, feedback))).text.split())
  places = [words.index(f"{label} implicit reward") for label in labels]
  assert places == sorted(places)


@pytest.mark.parametrize(
  "credit, colour",
  [(0.0, "#fafafa"), (2.0, "#60a5e0"), (9.0, "#60a5e0"), (-2.0, "#ef8a35"),
   (1.0, "#add0ed")],
)  # fmt: skip
def test_colours(credit, colour):
  # Half way: (250 + 96) / 2 = 173 = ad, 207.5 -> d0, 237 = ed.
  assert score_page.credit_colour(credit, 2.0) == colour


def luminance(colour: str) -> float:
  parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
  linear = [
    p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
  ]
  return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("credit", [-1.0, 0.0, 1.0])
def test_text_can_be_read_on_every_colour(credit):
  ink = "#1d2530"  # report_page.STYLE
  shade = luminance(score_page.credit_colour(credit, 1.0))
  assert (shade + 0.05) / (luminance(ink) + 0.05) > 4.5


def test_the_strongest_colour_is_no_outlier():
  one = dataclasses.replace(
    scored(), credits=[np.full(99, 0.1), np.array([50.0])]
  )
  assert score_page.colour_limit([one]) == pytest.approx(0.1)
  assert score_page.colour_limit([]) == 0
