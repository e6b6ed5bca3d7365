"""Principles: which are drawn, what is asked, and the clamp."""

import collections

import numpy as np
import pytest

from tests.judges.stand_ins import candidates, content, logit, shown
from xpo_jax.data.records import Message
from xpo_jax.errors import XpoError
from xpo_jax.judges import constitution, wording
from xpo_jax.judges.candidates import Reply
from xpo_jax.judges.constitution import Constitution

OURS = wording.principles()


def answers(p_first):
  """Asks p_first(question) of the first turn."""

  def ask(questions):
    for _, own in questions:
      assert own == ("(A)", "(B)")
    return [np.array([logit(p_first(q)), 0.0]) for q, _ in questions]

  return ask


def by_text(question):
  first = shown(question[:1])["(A)"]
  return {"x": 0.97, "y": 0.2}[first]


def test_without_reasoning_p_is_not_clamped():
  judge = constitution.language_model(answers(by_text), Constitution(OURS[:1]))
  found = judge(candidates(("x", "y")))
  p = (0.97 + 1 - 0.2) / 2
  np.testing.assert_allclose(found.scores, [[[0.5, p], [1 - p, 0.5]]])
  assert found.asked == 2 and not found.invalid


def test_with_reasoning_each_p_is_clamped():
  """.97 and .2 are read as .6 and .4: (.6 + 1 - .4) / 2."""
  turns = []

  def write(requests):
    return [Reply(f"so: {shown(q)['(A)']}") for q, _ in requests]

  def ask(questions):
    turns.extend(q for q, _ in questions)
    return answers(by_text)(questions)

  judge = constitution.language_model(ask, Constitution(OURS[:1]), write)
  found = judge(candidates(("x", "y")))
  np.testing.assert_allclose(found.scores, [[[0.5, 0.6], [0.4, 0.5]]])
  first, reasons, last = turns[0]
  assert OURS[0].compare in first.content
  assert reasons == Message("assistant", "so: x")
  assert last.role == "user" and "(A) or (B)" in last.content


def test_inside_the_clamp_p_stays():
  judge = constitution.language_model(
    answers(lambda q: {"x": 0.55, "y": 0.45}[shown(q[:1])["(A)"]]),
    Constitution(OURS[:1]),
    lambda requests: [Reply("hm")] * len(requests),
  )
  found = judge(candidates(("x", "y")))
  np.testing.assert_allclose(found.scores[0, 0, 1], 0.55)


def test_reasons_that_fail_are_invalid():
  def write(requests):
    return [
      Reply("cut", whole=False) if shown(q)["(A)"] == "x" else Reply("fine")
      for q, _ in requests
    ]

  judge = constitution.language_model(
    answers(lambda q: 0.5), Constitution(OURS[:1]), write
  )
  found = judge(candidates(("x", "y")))
  assert np.isnan(found.scores[0, 0, 1]) and np.isnan(found.scores[0, 1, 0])
  assert found.invalid == {"no_reasons": 1}


def test_votes_are_averaged_over_distinct_principles():
  p_of = {p.compare: n / 10 for n, p in enumerate(OURS[:4], 1)}

  def p_first(question):
    return next(p for text, p in p_of.items() if text in content(question))

  judge = constitution.language_model(
    answers(p_first), Constitution(OURS[:4], votes=4)
  )
  found = judge(candidates(("x", "y")))
  # Both orders see all four: the mean of .1 .2 .3 .4 either way, so 1/2.
  np.testing.assert_allclose(found.scores, np.full((1, 2, 2), 0.5))
  assert found.metrics["judge/position_bias"] == 1.0


def test_draws_depend_on_seed_and_texts_alone():
  it = Constitution(OURS, votes=2, seed=4)
  draw = lambda c, place, own=it: constitution.principle_indices(c, place, own)
  one = candidates(("x", "y", "z"))
  other = candidates(("q", "r", "s"), ("z", "y", "x"), prompts=["?", "p0?"])
  assert draw(one, (0, 0, 1)) == draw(one, (0, 1, 0))
  assert draw(one, (0, 0, 1)) == draw(other, (1, 2, 1))
  every = candidates(tuple(map(str, range(40))))
  drawn = [draw(every, (0, 0, k)) for k in range(1, 40)]
  assert all(len(set(own)) == 2 for own in drawn)
  seen = collections.Counter(n for own in drawn for n in own)
  assert len(seen) >= 14  # of 16, by 78 draws
  again = [
    draw(every, (0, 0, k), Constitution(OURS, 2, 5)) for k in range(1, 9)
  ]
  assert again != drawn[:8]


def test_votes_must_fit():
  for votes in (0, 17):
    with pytest.raises(XpoError, match=f"votes={votes}: want 1 to 16"):
      Constitution(OURS, votes)
