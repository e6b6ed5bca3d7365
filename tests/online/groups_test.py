"""Judged samples -> groups; every token and number is looked up by hand."""

import numpy as np
import pytest

from tests.online import samples
from xpo_jax.online import groups
from xpo_jax.types import Feedback

NAN = np.nan
PROMPTS, DRAWN = samples.prompts(3), samples.drawn(3, 3)


def holds(group, b, places, drawn=DRAWN):
  """The group's completions are those of `places`, None being absent."""
  np.testing.assert_array_equal(group.prompt, PROMPTS[b].prompt)
  assert group.id == PROMPTS[b].id
  for n, k in enumerate(places):
    size = 0 if k is None else int(drawn.mask[b, k].sum())
    assert len(group.completions[n]) == size
    if k is None:
      assert not group.ended[n]
      continue
    np.testing.assert_array_equal(
      group.completions[n], drawn.tokens[b, k, :size]
    )
    np.testing.assert_array_equal(
      group.columns["sampler_logps"][n], drawn.logps[b, k, :size]
    )
    assert group.ended[n] == drawn.ended[b, k]
  assert len(group.completions) == len(places)


@pytest.mark.parametrize(
  "make, kind",
  [
    (groups.keep_all, Feedback.SCORE),
    (groups.against, Feedback.PROBABILITY),
  ],
)
def test_all_samples_but_those_without_a_score(make, kind):
  scores = np.array([[0.1, 0.2, 0.3], [NAN, 0.5, NAN], [NAN, NAN, NAN]])
  found = make(PROMPTS, DRAWN, scores)
  holds(found[0], 0, [0, 1, 2])
  holds(found[1], 1, [None, 1, None])
  assert found[0].feedback == (0.1, 0.2, 0.3) and found[0].kind is kind
  assert found[1].feedback == (0.0, 0.5, 0.0)
  assert found[2] is None


def test_the_best_and_the_worst_of_different_texts():
  scores = np.array([[1.0, 3.0, 2.0], [5.0, NAN, 5.0], [NAN, 0.0, 1.0]])
  texts = [["a", "b", "c"], ["a", "b", "c"], ["a", "b", "c"]]
  found = groups.best_worst(PROMPTS, DRAWN, scores, texts)
  holds(found[0], 0, [1, 0])
  assert found[0].feedback == (1.0, 0.0) and found[0].kind is Feedback.ORDER
  assert found[1] is None  # nothing to choose
  holds(found[2], 2, [2, 1])


def test_a_text_never_meets_itself():
  """Equal texts have one score, but for a judge that is not sure."""
  scores = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 1.0], [0.0, 1.0, 2.0]])
  texts = [["a", "a", "b"], ["a", "a", "a"], ["a", "b", "c"]]
  found = groups.best_worst(PROMPTS, DRAWN, scores, texts)
  holds(found[0], 0, [0, 2])
  assert found[1] is None
  holds(found[2], 2, [2, 0])


def test_one_sample_against_the_opponents():
  mine, theirs = samples.drawn(3, 1), samples.drawn(3, 1, seed=2)
  wins = np.array([[0.75], [NAN], [0.0]])
  differ = np.zeros(3, bool)
  found = groups.against_pair(PROMPTS, mine, theirs, wins, differ)
  assert found[1] is None
  assert [g and g.feedback for g in found] == [(0.75, 0.25), None, (0.0, 1.0)]
  for b in (0, 2):
    first, second = found[b].completions
    np.testing.assert_array_equal(first, mine.ids(b, 0))
    np.testing.assert_array_equal(second, theirs.ids(b, 0))
    own, other = found[b].columns["sampler_logps"]
    np.testing.assert_array_equal(own, mine.logps[b, 0][mine.mask[b, 0]])
    assert len(other) == len(second) and np.isnan(other).all()
    assert found[b].ended == (mine.ended[b, 0], theirs.ended[b, 0])
  same = np.array([True, False, False])
  found = groups.against_pair(PROMPTS, mine, theirs, wins, same)
  assert [g is None for g in found] == [True, True, False]
