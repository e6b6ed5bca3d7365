"""Scores and win rates written by hand; the rows they must become."""

import dataclasses
import math

import numpy as np
import pytest

from xpo_jax.data import formats
from xpo_jax.data.records import Message
from xpo_jax.judges.candidates import Candidates
from xpo_jax.stages import rows, selection, verdicts
from xpo_jax.stages.selection import Judged
from xpo_jax.types import Feedback

NAN = math.nan


def judged(texts, scores=None, wins=None, **more) -> Judged:
  """Prompts "p0:", "p1:", ..; a text of None is not present."""
  present = np.array([[t is not None for t in own] for own in texts])
  own = Candidates(
    prompts=tuple(f"p{b}:" for b in range(len(texts))),
    texts=tuple(tuple(t or "" for t in own) for own in texts),
    present=present,
    ended=np.ones(present.shape, bool),
  )
  scores = np.full(present.shape, NAN) if scores is None else np.array(scores)
  numbers = np.arange(len(texts), dtype=np.int32)
  wins = None if wins is None else np.array(wins, float)
  return Judged(own, numbers, scores.astype(float), wins, **more)


def pair(b, chosen, rejected) -> dict:
  return {"prompt": f"p{b}:", "chosen": chosen, "rejected": rejected}


def test_best_and_worst_and_why_prompts_leave_nothing():
  found = selection.choose(
    "best_worst",
    judged(
      [
        ("a", "b", "c", "d"),
        ("a", "b", "c", "d"),
        ("a", " a", "a ", "a"),
        ("a", "b", None, None),
        ("a", None, None, None),
        ("a", "b", "c", "d"),
      ],
      [
        (1, 3, 0, 3),  # the first of equals
        (2, 2, 2, 2),
        (1, 1, 1, 1),
        (NAN, 2, 0, 9),  # absent ones have no say
        (1, 0, 0, 0),
        (NAN, 0.5, math.inf, 0.25),
      ],
    ),
  )
  assert found.rows == [
    [pair(0, "b", "c")],
    [],
    [],
    [],
    [],
    [pair(5, "b", "d")],
  ]
  assert found.dropped == {
    "equal_scores": 1,
    "equal_texts": 1,
    "no_score": 1,
    "empty_texts": 1,
  }
  np.testing.assert_array_equal(found.gaps, [3, 0.25])


def test_the_best_of_n_needs_one_score():
  found = selection.choose(
    "best_of_n", judged([("a", "b"), ("c", "d")], [(1, 2), (NAN, NAN)])
  )
  assert found.rows == [[{"prompt": "p0:", "completion": "b"}], []]
  assert found.dropped == {"no_score": 1}


def test_all_with_their_scores():
  found = selection.choose(
    "keep_all",
    judged([("a", "b", "a"), ("a", "b", "c")], [(1, 2, 1), (NAN, 0.5, 1)]),
  )
  assert found.rows == [
    [{"prompt": "p0:", "completions": ["a", "b", "a"], "scores": [1, 2, 1]}],
    [{"prompt": "p1:", "completions": ["b", "c"], "scores": [0.5, 1]}],
  ]


# P(row beats column): a over b over c, a sure of c.
WINS = [[0.5, 0.7, 1.0], [0.3, 0.5, 0.6], [0.0, 0.4, 0.5]]


def test_win_rates_count_a_text_against_itself():
  own = judged([("a", "b", "c")], wins=[WINS])
  (((row,),), _, _) = selection.choose("win_rates", own)
  np.testing.assert_allclose(row.pop("win_rates"), [2.2 / 3, 1.4 / 3, 0.9 / 3])
  assert row == {"prompt": "p0:", "completions": ["a", "b", "c"]}
  (((row,),), _, gaps) = selection.choose("best_worst_wins", own)
  np.testing.assert_allclose(row.pop("win_rates"), [2.2 / 3, 0.9 / 3])
  assert row == {"prompt": "p0:", "completions": ["a", "c"]}
  np.testing.assert_allclose(gaps, [1.3 / 3])


def test_equal_win_rates_drop():
  cycle = [[0.5, 0.8, 0.2], [0.2, 0.5, 0.8], [0.8, 0.2, 0.5]]
  own = judged([("a", "b", "c")], wins=[cycle])
  found = selection.choose("best_worst_wins", own)
  assert (found.rows, found.dropped) == ([[]], {"equal_scores": 1})


def test_a_soft_pair_is_p_and_the_rest():
  own = judged(
    [("a", "b"), ("a", "b")],
    wins=[[[0.5, 0.3], [0.7, 0.5]], [[0.5, NAN], [NAN, 0.5]]],
  )
  found = selection.choose("soft_pairs", own)
  row = {"prompt": "p0:", "completions": ["a", "b"], "win_rates": [0.3, 0.7]}
  assert found.rows == [[row], []]
  assert found.dropped == {"no_score": 1}


def test_a_knockout_emits_every_game():
  """a beats b, d beats c (a tie would be c's), a beats d; the twin is out."""
  wins = np.full((5, 5), NAN)
  for i, j, p in ((0, 1, 0.9), (2, 3, 0.4), (0, 3, 0.5)):
    wins[i, j], wins[j, i] = p, 1 - p
  own = judged([("a", "b", "c", "d", "a")], wins=[wins])
  found = selection.choose("tournament", own)
  assert found.rows == [
    [pair(0, "a", "b"), pair(0, "d", "c"), pair(0, "a", "d")]
  ]


def test_a_knockout_of_unknown_games_leaves_nothing():
  own = judged([("a", "b")], wins=np.full((1, 2, 2), NAN))
  assert selection.choose("tournament", own).dropped == {"no_verdict": 1}


def test_large_margins_and_no_loss_of_the_data_s_own():
  own = judged([("a", "b", "c", "gold")], [(5, 3, 1, 3)], gold=True)
  found = selection.choose("large_margin", own, min_margin=2.0)
  assert found.rows == [
    [pair(0, "a", "b"), pair(0, "a", "c"), pair(0, "b", "c"),
     pair(0, "gold", "c")]
  ]  # fmt: skip
  np.testing.assert_array_equal(found.gaps, [2, 4, 2, 2])
  free = selection.choose("large_margin", own._replace(gold=False), 2.0)
  assert pair(0, "a", "gold") in free.rows[0]
  none = selection.choose("large_margin", own, min_margin=4.5)
  assert none.dropped == {"small_margin": 1}


def test_self_samples_stand_against_the_data_s_worst():
  own = judged(
    [("a", None, "b"), ("a", "b", "c"), ("x", "x", None), (None,) * 3],
    rejected=("no", None, " x", "no"),
  )
  found = selection.choose("self_samples", own)
  row = {"prompt": "p0:", "samples": ["a", "b"], "rejected": "no"}
  assert found.rows == [[row], [], [], []]
  assert found.dropped == {"no_rejected": 1, "equal_texts": 1, "empty_texts": 1}


# Rejection sampling.


def test_zero_temperature_accepts_the_highest_of_different_texts():
  own = judged(
    [("a", "b", "c", "b", "d"), ("e", "e", "e", "f", None)],
    [(0, 4, 1, 4, 3), (1, 1, 1, NAN, 7)],
  )
  found = selection.accept("rejection_tournament", own, 3, 0.0, seed=0)
  assert found.judged.candidates.texts[0] == ("b", "d", "c")
  np.testing.assert_array_equal(found.judged.scores[0], [4, 3, 1])
  np.testing.assert_array_equal(
    found.judged.candidates.present, [[1, 1, 1], [1, 0, 0]]
  )
  assert found.judged.reasons == ("", "no_score")


def test_the_first_pass_accepts_with_exp_of_the_gap():
  """r = 1, .5, 0 at beta .5: 1, e^-1, e^-2 (methods.md 4.2)."""
  count = 3996
  own = judged([("a", "b", "c")] * count, [(1, 0.5, 0)] * count)
  found = selection.accept(
    "rejection_tournament", own, 3, 0.5, seed=3, size=999
  )
  wanted = (1 + 0.3678794412 + 0.1353352832) / 3
  assert abs(found.first_rate.mean() - wanted) < 0.01
  order = [own[0] for own in found.judged.candidates.texts]
  # b is first if it is accepted before a is looked at: never, a is the first.
  assert set(order) == {"a"}
  assert found.passes.max() <= 3


def test_acceptance_depends_on_the_number_of_the_prompt_only():
  texts = [tuple(f"{b}{k}" for k in range(6)) for b in range(7)]
  scores = np.random.default_rng(0).normal(size=(7, 6))
  own = judged(texts, scores)
  whole = selection.accept("rejection_tournament", own, 3, 0.7, 1, size=512)
  parts = selection.accept("rejection_tournament", own, 3, 0.7, 1, size=1)
  assert whole.judged.candidates.texts == parts.judged.candidates.texts
  alone = judged(texts[4:5], scores[4:5])
  alone = alone._replace(numbers=np.array([4], np.int32))
  one = selection.accept("rejection_tournament", alone, 3, 0.7, 1)
  assert one.judged.candidates.texts[0] == whole.judged.candidates.texts[4]
  other = selection.accept("rejection_tournament", own, 3, 0.7, 2)
  assert other.judged.candidates.texts != whole.judged.candidates.texts


def test_the_first_round_pairs_everyone_once():
  letters = "abcdefgh"
  gap = np.arange(8)[None] - np.arange(8)[:, None]
  wins = 1 / (1 + np.exp(-gap))  # the earlier letter wins
  own = judged([tuple(letters)] * 3, wins=[wins] * 3)
  found = selection.choose("rejection_first_round", own, seed=5)
  for own_rows in found.rows:
    games = [row["chosen"] + row["rejected"] for row in own_rows]
    assert sorted("".join(games)) == list(letters) and len(games) == 4
    assert all(game[0] < game[1] for game in games)
  first, second, third = ([r["chosen"] for r in own] for own in found.rows)
  assert not first == second == third


# A penalty on characters.


def test_a_penalty_on_scores_is_one_on_the_logit():
  texts = [("a", "bbb", "cc")]
  own = judged(texts, [(1.0, 2.0, 0.5)])
  short = verdicts._scored(own, own.scores, 0.75)
  np.testing.assert_allclose(short.scores, [[0.25, -0.25, -1.0]])
  sigma = lambda x: 1 / (1 + np.exp(-x))
  plain = sigma(np.array([[[0, -1, 0.5], [1, 0, 1.5], [-0.5, -1.5, 0]]]))
  found = verdicts.penalised(plain, own.candidates, 0.75)
  np.testing.assert_allclose(found[0, 0], sigma(np.array([0, 0.5, 1.25])))
  sure = verdicts.penalised(np.array([[[0.5, 1.0], [0.0, 0.5]]]),
                            judged([("a", "bb")]).candidates, 3.0)  # fmt: skip
  np.testing.assert_array_equal(sure, [[[0.5, 1], [0, 0.5]]])


# What the rows say to the readers of data.

MADE = {
  "pairs": (["a", "b"], (), None, (1, 0)),
  "demonstrations": (["a"], (), None, (1,)),
  "scores": (["a", "b", "c"], (0.5, -1, 2), None, (0.5, -1, 2)),
  "win_rates": (["a", "b"], (0.75, 0.5), None, (0.75, 0.5)),
  "samples": (["a", "b"], (), "c", (1, 1, -1)),
}


@pytest.mark.parametrize("layout", MADE)
@pytest.mark.parametrize("prompt", ["Q:", (Message("user", "Q"),)])
def test_rows_are_read_as_they_are_meant(layout, prompt):
  texts, values, rejected, feedback = MADE[layout]
  row = rows.make_row(layout, prompt, texts, values, rejected)
  assert formats.detect(set(row), row) == layout
  group = formats.parse(row, layout, "f:1")
  assert (group.prompt, group.feedback) == (prompt, feedback)
  assert list(group.completions) == texts + [rejected] * (layout == "samples")
  assert group.kind is rows.FEEDBACK[layout]
  assert rows._written(layout, group) == row


@pytest.mark.parametrize("layout", MADE)
def test_rows_say_which_texts_were_cut_off(layout):
  texts, values, rejected, _ = MADE[layout]
  ended = (False, True, True)[: len(texts) + (layout == "samples")]
  row = rows.make_row(layout, "Q:", texts, values, rejected, ended)
  group = formats.parse(row, formats.detect(set(row), row), "f:1")
  assert group.ended == ended
  assert rows._written(layout, group) == row
  whole = rows.make_row(layout, "Q:", texts, values, rejected, [True] * 2)
  assert whole == rows.make_row(layout, "Q:", texts, values, rejected)


def test_what_is_selected_keeps_its_end():
  own = judged([("a", "b", "c")], [(1, 3, 2)])
  ended = np.array([[False, True, True]])
  own = own._replace(
    candidates=dataclasses.replace(own.candidates, ended=ended)
  )
  (((row,),), *_) = selection.choose("best_worst", own)
  assert row == pair(0, "b", "a") | {"ended": [True, False]}
  (((row,),), *_) = selection.choose("best_of_n", own)
  assert row == {"prompt": "p0:", "completion": "b"}
  own = own._replace(rejected=("d",))
  (((row,),), *_) = selection.choose("self_samples", own)
  assert row["ended"] == [False, True, True, True]  # people's last


def test_a_text_that_looks_like_a_dialogue_is_still_an_answer():
  text = "\n\nHuman: more?\n\nAssistant: no"
  row = rows.make_row("pairs", "Q:", [text, "b"])
  group = formats.parse(row, "pairs", "f:1")
  assert (group.prompt, group.completions) == ("Q:", (text, "b"))


def test_every_layout_has_its_feedback():
  layouts = {kind.layout for kind in selection.KINDS.values()}
  assert layouts == set(rows.FEEDBACK) == set(MADE)
  assert rows.FEEDBACK["win_rates"] is Feedback.PROBABILITY
