import dataclasses

import pytest

from xpo_jax.data import convert
from xpo_jax.data.records import Group
from xpo_jax.errors import XpoError
from xpo_jax.types import Feedback

ORDER, BINARY, SCORE = Feedback.ORDER, Feedback.BINARY, Feedback.SCORE
PROBABILITY, MARGIN = Feedback.PROBABILITY, Feedback.MARGIN
SHOWN = Feedback.DEMONSTRATION


def group(feedback, kind, prompt="p", id="f:1") -> Group:
  texts = tuple("abcdef"[: len(feedback)])
  return Group(id, prompt, texts, tuple(feedback), kind, cluster="film")


def plain(groups):
  return [(g.completions, g.feedback, g.kind) for g in groups]


PAIR = group((1.0, 0.0), ORDER)
SECOND_WINS = group((0.2, 0.8), PROBABILITY)
EVEN = group((0.5, 0.5), PROBABILITY)
LIST = group((1.0, 3.0, 0.0, 2.5), SCORE)
RATES = group((0.5, 0.9, 0.2), PROBABILITY)


def test_pairs_to_demonstrations():
  groups = convert.to_demonstrations([PAIR, SECOND_WINS, EVEN])
  assert plain(groups) == [
    (("a",), (1.0,), SHOWN),
    (("b",), (1.0,), SHOWN),
    (("a",), (1.0,), SHOWN),
  ]
  assert [g.id for g in groups] == ["f:1/1", "f:1/2", "f:1/1"]
  assert groups[0].cluster == "film"


def test_undesirable_rows_are_no_demonstrations():
  rows = [group((1.0,), BINARY), group((-1.0,), BINARY)]
  assert plain(convert.to_demonstrations(rows)) == [(("a",), (1.0,), SHOWN)]


def test_pairs_to_binary_rows():
  assert plain(convert.to_binary([PAIR, SECOND_WINS, EVEN])) == [
    (("a",), (1.0,), BINARY),
    (("b",), (-1.0,), BINARY),
    (("a",), (-1.0,), BINARY),
    (("b",), (1.0,), BINARY),
  ]


def test_soft_pairs_and_margins_to_order():
  rows = [SECOND_WINS, EVEN, group((1.5, 0.0), MARGIN)]
  assert plain(convert.to_order(rows)) == [
    (("b", "a"), (1.0, 0.0), ORDER),
    (("a", "b"), (1.0, 0.0), ORDER),
  ]


def test_lists_to_best_against_worst():
  ties = group((2.0, 2.0, 1.0, 1.0), SCORE)
  equal = group((1.0, 1.0), SCORE)
  assert plain(convert.lists_to_pairs([LIST, ties, equal])) == [
    (("b", "c"), (1.0, 0.0), ORDER),
    (("a", "c"), (1.0, 0.0), ORDER),
  ]


def test_lists_to_every_pair_with_the_gap():
  pairs = convert.lists_to_pairs([LIST], min_gap=1.5)
  # 3 - 1 = 2, 3 - 0 = 3, 2.5 - 1 = 1.5, 2.5 - 0 = 2.5; not 3 - 2.5, 1 - 0
  assert [g.completions for g in pairs] == [
    ("b", "a"),
    ("b", "c"),
    ("d", "a"),
    ("d", "c"),
  ]
  assert [g.id for g in pairs] == ["f:1/2>1", "f:1/2>3", "f:1/4>1", "f:1/4>3"]
  with pytest.raises(XpoError, match="min_gap=0: want a number > 0"):
    convert.lists_to_pairs([LIST], min_gap=0)


def rows_of(*sizes: int) -> list[Group]:
  return [
    Group(f"f:{p}.{i}", f"prompt {p}", (f"{p}.{i}",), (1.0,), BINARY)
    for p, size in enumerate(sizes)
    for i in range(size)
  ]


@pytest.mark.parametrize("sizes", [(1, 1), (3, 2, 1), (4, 1, 2, 1), (1,) * 20])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_mismatched_partner_is_of_another_prompt(sizes, seed):
  rows = rows_of(*sizes)
  twins = convert.add_mismatched_partner(rows, seed)
  assert twins == convert.add_mismatched_partner(rows, seed)
  for row, twin in zip(rows, twins, strict=True):
    own, partner = twin.completions
    assert (own,) == row.completions
    assert own.split(".")[0] != partner.split(".")[0]
    assert twin.feedback == (1.0, 0.0)
  partners = sorted(t.completions[1] for t in twins)
  assert partners == sorted(r.completions[0] for r in rows)


def test_a_partner_keeps_its_end():
  first, second = rows_of(1, 1)
  cut = dataclasses.replace(second, ended=(False,))
  one, two = convert.add_mismatched_partner([first, cut], 0)
  assert (one.ended, two.ended) == ((True, False), (False, True))
  for twin in convert.add_mismatched_partner([first, second], 0):
    assert twin.ended == ()


def test_partners_depend_on_the_seed():
  rows = rows_of(*(1,) * 20)
  first, second = (convert.add_mismatched_partner(rows, s) for s in (0, 1))
  assert first != second


@pytest.mark.parametrize("sizes", [(3, 2), (1,), ()])
def test_no_partner_is_possible(sizes):
  with pytest.raises(XpoError, match="mismatched completions: one prompt has"):
    convert.add_mismatched_partner(rows_of(*sizes), 0)


def test_partners_are_for_single_completions():
  with pytest.raises(XpoError, match="f:1: K = 2; a mismatched"):
    convert.add_mismatched_partner([PAIR], 0)


ROUTES = [
  (PAIR, {ORDER, PROBABILITY}, (2, 2), ORDER, 1),
  (PAIR, {SHOWN}, (1, 1), SHOWN, 1),
  (PAIR, {BINARY}, (1, 1), BINARY, 2),
  (PAIR, {SCORE}, (2, None), SCORE, 1),
  (SECOND_WINS, {ORDER}, (2, 2), ORDER, 1),
  (LIST, {ORDER}, (2, 2), ORDER, 1),
  (LIST, {ORDER, SCORE}, (2, None), SCORE, 1),
  (LIST, {ORDER, SCORE}, (2, 2), ORDER, 1),
  (LIST, {BINARY}, (1, 2), BINARY, 2),
  (LIST, {SHOWN}, (1, 1), SHOWN, 1),
  (RATES, {PROBABILITY, ORDER}, (2, None), PROBABILITY, 1),
  (RATES, {PROBABILITY, ORDER}, (2, 2), ORDER, 1),
  (RATES, {SCORE}, (2, None), SCORE, 1),
  (RATES, {BINARY}, (1, 1), BINARY, 2),
  (RATES, {SHOWN}, (1, 1), SHOWN, 1),
]


@pytest.mark.parametrize(("row", "accepted", "k_range", "kind", "n"), ROUTES)
def test_convert_picks_the_way(row, accepted, k_range, kind, n):
  groups = convert.convert([row], frozenset(accepted), k_range)
  assert [g.kind for g in groups] == [kind] * n
  high = k_range[1] or 9
  assert all(k_range[0] <= len(g.completions) <= high for g in groups)


def test_win_rates_of_a_list_give_its_best_and_worst():
  pair = convert.convert([RATES], frozenset({ORDER}), (2, 2))
  assert plain(pair) == [(("b", "c"), (1.0, 0.0), ORDER)]
  single = convert.convert([RATES], frozenset({SHOWN}), (1, 1))
  assert plain(single) == [(("b",), (1.0,), SHOWN)]


def test_convert_adds_the_partner_for_kto():
  rows = [group((1.0, 0.0), ORDER, f"p{i}", f"f:{i}") for i in range(3)]
  twins = convert.convert(
    rows, frozenset({BINARY}), (1, 2), {"mismatched_completion"}, seed=3
  )
  assert len(twins) == 6
  assert {t.feedback for t in twins} == {(1.0, 0.0), (-1.0, 0.0)}


def test_convert_names_both_kinds_when_there_is_no_way():
  with pytest.raises(XpoError) as caught:
    convert.convert([group((1.0,), SHOWN)], frozenset({ORDER, SCORE}), (2, 2))
  assert str(caught.value) == (
    "the data carries DEMONSTRATION feedback with K = 1, the method takes"
    " ORDER, SCORE with K = 2; choose other data or another method"
  )
  with pytest.raises(XpoError, match="K = 4, .* takes SCORE with K = 2 to 3;"):
    convert.convert([LIST], frozenset({SCORE}), (2, 3))
