"""Raw ratings: each kind of feedback out of them, and how raters agree."""

import io
import math

import numpy as np
import pytest
import rich.console

from tests import runs
from xpo_jax.data import films, inspect, load, ratings
from xpo_jax.data.film_join import Snippet
from xpo_jax.data.records import Group
from xpo_jax.errors import XpoError
from xpo_jax.models.weights.tokenizer import byte_tokenizer
from xpo_jax.types import Feedback

# Means 2, 4, 2.5 and 1.
GIVEN = ((1.0, 2.0, 3.0), (3.0, 5.0), (2.0, 3.0), (1.0,))
GROUP = Group(
  "f:1", "Q:", (" a", " b", " c", " d"), (2.0, 4.0, 2.5, 1.0),
  Feedback.SCORE, ratings=GIVEN,
)  # fmt: skip
ROW = {
  "prompt": "Q:",
  "completions": [" a", " b", " c", " d"],
  "ratings": [list(own) for own in GIVEN],
}


def share(first, second) -> float:
  """The definition, pair by pair."""
  wins = [(a > b) + (a == b) / 2 for a in first for b in second]
  return sum(wins) / len(wins)


def test_win_shares_count_pairs_of_raters():
  # 1 > 0, 1 = 1, 3 > 0, 3 > 1: three wins and half a tie of four.
  assert ratings.win_shares([(1, 3), (0, 1)])[0, 1] == 3.5 / 4
  found = ratings.win_shares(GIVEN)
  assert found.tolist() == [[share(a, b) for b in GIVEN] for a in GIVEN]


@pytest.mark.parametrize("seed", range(3))
def test_win_shares_of_random_ratings_are_exact(seed):
  noise = np.random.default_rng(seed)
  texts = [
    tuple(noise.integers(-4, 5, noise.integers(1, 20)).tolist())
    for _ in range(7)
  ]
  found = ratings.win_shares(texts)
  assert found.tolist() == [[share(a, b) for b in texts] for a in texts]


def plain(groups):
  return {g.id: (g.completions, g.feedback) for g in groups}


def test_pairs_with_a_gap_and_their_soft_labels():
  hard = ratings.to_pairs(GROUP, min_gap=1.5)
  assert plain(hard) == {
    "f:1/2>1": ((" b", " a"), (1.0, 0.0)),  # 4 - 2
    "f:1/2>3": ((" b", " c"), (1.0, 0.0)),  # 4 - 2.5, exactly the gap
    "f:1/2>4": ((" b", " d"), (1.0, 0.0)),
    "f:1/3>4": ((" c", " d"), (1.0, 0.0)),  # 2.5 - 1
  }
  assert {g.kind for g in hard} == {Feedback.ORDER}
  assert hard[0].id == "f:1/2>3" and hard[0].ratings == GIVEN[1:3]
  soft = ratings.ratings_to_soft(GROUP, min_gap=1.5)
  # 3 > 1, 3 > 2, 3 = 3, 5 > all: 5.5 of 6; 3 > 2, 3 = 3, 5 > both: 3.5 of 4.
  assert plain(soft) == {
    "f:1/2>1": ((" b", " a"), (5.5 / 6, 0.5 / 6)),
    "f:1/2>3": ((" b", " c"), (3.5 / 4, 0.5 / 4)),
    "f:1/2>4": ((" b", " d"), (1.0, 0.0)),
    "f:1/3>4": ((" c", " d"), (1.0, 0.0)),
  }
  assert {g.kind for g in soft} == {Feedback.PROBABILITY}
  with pytest.raises(XpoError, match="data.min_gap=0: want a number > 0"):
    ratings.to_pairs(GROUP, min_gap=0)


def test_thumbs_by_the_threshold():
  rows = ratings.to_binary(GROUP, threshold=2.5)
  assert plain(rows) == {
    "f:1/1": ((" a",), (-1.0,)),
    "f:1/2": ((" b",), (1.0,)),
    "f:1/4": ((" d",), (-1.0,)),
  }
  near = ratings.to_binary(GROUP, threshold=2.5, neutral=1.5)
  assert set(plain(near)) == {"f:1/2", "f:1/4"}  # 0.5 off is neutral


KINDS = {
  "auto": (Feedback.SCORE, 1),
  "ratings": (Feedback.SCORE, 1),
  "lists": (Feedback.SCORE, 1),
  "pairs": (Feedback.ORDER, 5),  # gaps 2, 1.5, 3, 1, 1.5, not 0.5
  "soft": (Feedback.PROBABILITY, 5),
  "texts": (Feedback.DEMONSTRATION, 4),
  "binary": (Feedback.BINARY, 4),  # all above 0
}


@pytest.mark.parametrize("word", KINDS)
def test_the_words_of_the_films_choose_the_kind_of_a_file(tmp_path, word):
  kind, count = KINDS[word]
  path = runs.write(tmp_path / "f.jsonl", [ROW] * 2)
  groups, account = load.load_groups(str(path), word)
  assert {g.kind for g in groups} == {kind} and len(groups) == 2 * count
  assert (account.read, account.used) == (2, 2)
  if word in ("pairs", "soft"):
    assert {g.cluster for g in groups} == {f"{path}:1", f"{path}:2"}


@pytest.mark.parametrize(
  "word, changes, reason",
  [
    ("pairs", {"min_gap": 9.0}, "small_gap"),
    ("soft", {"min_gap": 9.0}, "small_gap"),
    ("binary", {"threshold": 2.0}, "neutral"),
    ("lists", {}, "single"),
  ],
)
def test_rows_that_make_nothing_are_counted(tmp_path, word, changes, reason):
  lone = {"prompt": "Q:", "completions": [" a"], "ratings": [[1, 3]]}
  rows = [ROW] * 4 + [lone]
  path = runs.write(tmp_path / "f.jsonl", rows[::-1])
  if "min_gap" in changes:
    with pytest.raises(XpoError, match=r"nothing is left \(small_gap 5\)"):
      load.load_groups(str(path), word, **changes)
    return
  _, account = load.load_groups(str(path), word, **changes)
  assert (account.read, account.used) == (5, 4)
  assert account.dropped == {reason: 1}


def test_the_words_need_ratings(tmp_path):
  path = runs.write(tmp_path / "f.jsonl", [runs.pair(0)])
  assert load.load_groups(str(path), "pairs")[0][0].kind is Feedback.ORDER
  with pytest.raises(XpoError, match="f.jsonl:1: no column 'completions'"):
    load.load_groups(str(path), "soft")


# Agreement.

# Four observers, twelve units: Krippendorff's own example, interval 0.849.
UNITS = (
  (1, 1, 1), (2, 2, 3, 2), (3, 3, 3, 3), (3, 3, 3, 3), (2, 2, 2, 2),
  (1, 2, 3, 4), (4, 4, 4, 4), (1, 1, 2, 1), (2, 2, 2, 2), (5, 5, 5), (1, 1),
  (3,),
)  # fmt: skip


def test_krippendorffs_alpha():
  assert ratings.krippendorff_alpha(UNITS) == pytest.approx(0.849, abs=5e-4)
  # Two texts, by hand: within (0, 2) the squared difference is 4, within (4, 4)
  # it is 0: mean 2. Among 0, 2, 4, 4: 4, 16, 16, 4, 4, 0: mean 44 / 6.
  found = ratings.krippendorff_alpha([(0, 2), (4, 4), (9,)])
  assert found == pytest.approx(1 - 2 / (44 / 6))
  assert ratings.krippendorff_alpha([(0, 0), (3, 3)]) == 1.0
  assert math.isnan(ratings.krippendorff_alpha([(3, 3), (3,)]))
  assert math.isnan(ratings.krippendorff_alpha([(3,), (4,)]))


def test_agreement_is_over_pairs_of_one_prompt():
  found = ratings.agreement([GIVEN[:2], ((0,), (0, 0), (2, -1, -1))])
  # First prompt: b above a, 5.5 / 6. Second: all means are 0, no pair.
  assert (found.texts, found.raters, found.pairs) == (5, (1, 3), 1)
  assert found.pair_agreement == 5.5 / 6
  both = ratings.agreement([GIVEN[:2], ((1, 2), (3,))])
  assert both.pairs == 2 and both.pair_agreement == (5.5 / 6 + 1) / 2
  # The means are 2 and 1.5 apart.
  wide = ratings.agreement([GIVEN[:2], ((1, 2), (3,))], min_gap=2.0)
  assert (wide.pairs, wide.wide_pairs, wide.wide_agreement) == (2, 1, 5.5 / 6)
  assert math.isnan(ratings.agreement([((1, 2),)]).pair_agreement)


def shown(source, **keywords) -> str:
  console = rich.console.Console(record=True, width=100, file=io.StringIO())
  tokenizer = byte_tokenizer()
  inspect.inspect_source(source, tokenizer, console=console, **keywords)
  return console.export_text()


@pytest.mark.parametrize("word", ["auto", "soft", "binary"])
def test_inspect_prints_the_agreement_of_a_file(tmp_path, word):
  path = str(runs.write(tmp_path / "f.jsonl", [ROW, ROW]))
  text = shown(path, format=word)
  want = ratings.agreement([GIVEN, GIVEN])
  assert want.texts == 8 and want.pairs == 12
  for line in want.lines():
    assert line in text.replace("\n", " ") or line in text
  assert "8 rated texts, 1 to 3 ratings each" in text


def test_inspect_prints_the_agreement_on_films(monkeypatch):
  rows = tuple(
    Snippet(film, f"text {i}", own)
    for film, texts in (("a_film", GIVEN[:2]), ("b_film", ((1, 2), (3,))))
    for i, own in enumerate(texts)
  )
  monkeypatch.setattr(films, "snippets", lambda split: rows)
  text = shown("films", format="soft", min_gap=0.5)
  assert "4 rated texts, 1 to 3 ratings each" in text
  assert "95.8% (ties half; 2 pairs of texts)" in text  # (5.5 / 6 + 1) / 2
  assert "0.5 or more apart: 95.8% (2 pairs)" in text
