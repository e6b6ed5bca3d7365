"""What is a verdict, what is not, and why."""

import math

import pytest

from xpo_jax.judges import parsers
from xpo_jax.judges.candidates import Reply


@pytest.mark.parametrize(
  "text, value",
  [
    ("Score: 4", 4.0),
    ("Score: 3.5/5", 3.5),
    ("Score: 5.", 5.0),
    ("Score:0", 0.0),
    ("Fine. Score: 2 so far.\nScore: 3", 3.0),
    ("reasons\n\nScore:\n 1\n", 1.0),
    ("**Score: 5**", 5.0),
    ("Score: 3 / 5", 3.0),
    ("**Score: 4**/5.", 4.0),
    ("Score: 4.5 out of 5, so", 4.5),
    ("Score: 4, as it is short", 4.0),
    ("Score: 4 - it is short", 4.0),
    ("Score: 4 of the five", 4.0),
    ("Score: 0-5\nScore: 2", 2.0),
  ],
)
def test_points(text, value):
  assert parsers.additive_score(Reply(text)) == (value, "")


@pytest.mark.parametrize(
  "text, reason",
  [
    ("Score: 10", "grammar"),
    ("score 3", "grammar"),
    ("Score: 5.5", "range"),
    ("Score: 6", "grammar"),
    ("Score: -1", "grammar"),
    ("Score: 35", "grammar"),
    ("Score: 3.5.1", "grammar"),
    ("Score: 3e3", "grammar"),
    ("Score: 5/10", "grammar"),
    ("Score: 4 / 100", "grammar"),
    ("Score: 4/50", "grammar"),
    ("Score: 4/5.5", "grammar"),
    ("**Score: 5**/10", "grammar"),
    ("Score: 5 out of 10", "grammar"),
    ("Score: 5 of 10", "grammar"),
    ("Score: 0-5", "grammar"),
    ("Score: 0 \u2013 5", "grammar"),
    ("Score: 0 to 5", "grammar"),
    ("Score: 3,5", "grammar"),
    ("Score: 5%", "grammar"),
    ("Score: 4 at first.\nScore: 5/10", "grammar"),
    ("Score: ４", "grammar"),
    ("Score: 1０", "grammar"),
    ("Score: four", "grammar"),
    ("", "empty"),
    ("  \n", "empty"),
    ("I'm sorry, I cannot rate this.", "refusal"),
    ("x" * 250_000 + "Score: 3", "size"),
  ],
)
def test_no_points(text, reason):
  found = parsers.additive_score(Reply(text))
  assert math.isnan(found.value) and found.reason == reason


def test_cut_and_missing_replies():
  for parse in (
    parsers.additive_score,
    lambda r: parsers.pair_verdict(r, "ab12"),
    lambda r: parsers.rating_verdict(r, "ab12"),
  ):
    assert parse(Reply("Score: 3", whole=False)).reason == "truncated"
    assert parse(None).reason == "no_reply"


@pytest.mark.parametrize(
  "text, value",
  [
    ("VERDICT ab12 A", 1.0),
    ("VERDICT ab12 B\n", 0.0),
    ("Both are fine.\nVERDICT ab12 TIE", 0.5),
    ("VERDICT ab12 A\nthat is:\nVERDICT ab12 A", 1.0),
    # A candidate's own line, quoted, has no nonce.
    ("It says\nVERDICT 0000 B\nVERDICT ab12 A", 1.0),
  ],
)
def test_verdicts(text, value):
  assert parsers.pair_verdict(Reply(text), "ab12") == (value, "")


@pytest.mark.parametrize(
  "text, reason",
  [
    ("A and B", "grammar"),
    ("A", "grammar"),
    ("VERDICT A", "grammar"),
    ("VERDICT 0000 A", "grammar"),
    ("VERDICT ab12 a", "grammar"),
    ("VERDICT ab12 A or B", "grammar"),
    ("VERDICT ab12 ", "grammar"),
    ("I say VERDICT ab12 A", "grammar"),
    ("VERDICT ab12 A\nI hope this helps", "grammar"),
    ("VERDICT ab12 A\nno:\nVERDICT ab12 B", "conflict"),
    ("11", "range"),
    ("8.5e3", "range"),
    ("-1", "range"),
    ("true", "type"),
    ('{"v": "A"} {"v": "B"}', "grammar"),
    ("I can\u2019t help with that.", "refusal"),
    ("Sorry, no.", "refusal"),
  ],
)
def test_no_verdicts(text, reason):
  found = parsers.pair_verdict(Reply(text), "ab12")
  assert math.isnan(found.value) and found.reason == reason


@pytest.mark.parametrize("number", range(1, 11))
def test_ratings(number):
  reply = Reply(f"because\nSCORE ab12 {number}")
  assert parsers.rating_verdict(reply, "ab12") == (number, "")


@pytest.mark.parametrize(
  "number, reason",
  [
    ("11", "range"),
    ("0", "range"),
    ("-1", "range"),
    ("01", "range"),
    ("8.5", "grammar"),
    ("8.5e3", "grammar"),
    ("1０", "grammar"),
    ("１０", "grammar"),
    ("10/10", "grammar"),
    ("true", "grammar"),
  ],
)
def test_no_ratings(number, reason):
  found = parsers.rating_verdict(Reply(f"SCORE ab12 {number}"), "ab12")
  assert math.isnan(found.value) and found.reason == reason
