"""Judges of single completions over a table of ids."""

import numpy as np

from tests.judges.stand_ins import candidates
from xpo_jax.data import templates
from xpo_jax.judges import pointwise
from xpo_jax.models.weights.tokenizer import byte_tokenizer

BYTES = byte_tokenizer()
PLAIN = templates.make_template(BYTES, "plain")


def test_texts_become_the_models_own_ids():
  seen = []

  def score(groups):
    seen.extend(groups)
    return [np.arange(len(g.completions)) + 10.0 for g in groups]

  these = candidates(
    ("ab", "c", "d"),
    ("x", "y", "z"),
    prompts=["p", "q"],
    present=np.array([[True, False, True], [False] * 3]),
    ended=np.array([[True, True, False], [True] * 3]),
  )
  found = pointwise.make_judge(score, PLAIN, 99)(these)
  nan = np.nan
  np.testing.assert_array_equal(found.scores, [[10, nan, 11], [nan] * 3])
  (group,) = seen
  assert group.prompt.tolist() == [ord("p")]
  ids = [own.tolist() for own in group.completions]
  assert ids == [[97, 98, BYTES.eos_id], [100]]
  assert group.ended == (True, False) and found.asked == 2


def test_an_empty_completion_is_its_end():
  empty = candidates(("", "a"), ended=np.zeros((1, 2), bool))
  group = pointwise.token_groups(empty, PLAIN)[0]
  ids = [own.tolist() for own in group.completions]
  assert ids == [[BYTES.eos_id], [97]]


def test_too_long_and_not_finite():
  """Two prompts have room for 6 tokens: 1 + 5 fits, 1 + 6 does not."""

  def score(groups):
    assert [len(g.prompt) for g in groups] == [1]
    return [np.array([1.0, np.inf])]

  these = candidates(("abcd", "a"), ("abcde", "a"), prompts=["p", "q"])
  found = pointwise.make_judge(score, PLAIN, 6)(these)
  np.testing.assert_array_equal(found.scores, [[1, np.nan], [np.nan, np.nan]])
  assert found.invalid == {"too_long": 2, "not_finite": 1}
  assert found.asked == 4
