"""Raw scores to feedback, with numbers worked out by hand."""

import numpy as np
import pytest

from xpo_jax.online import rewards

NAN = np.nan


def test_nothing_asked_changes_nothing():
  scores = np.array([[1.5, NAN, -2.0]])
  found = rewards.shaped(
    scores, np.zeros((1, 3), bool), np.full((1, 3), 9), np.full((1, 3), 40)
  )
  np.testing.assert_array_equal(found, scores)


def test_every_penalty_adds_up_and_nan_stays():
  """Clipped first: 7 -> 5; then - 1 (cut off), - 0.01 x 20, + overlong."""
  found = rewards.shaped(
    np.array([[7.0, -7.0, NAN, 2.0]]),
    np.array([[False, True, False, True]]),
    np.array([[10, 8, 10, 9]]),
    np.array([[20, 0, 5, 100]]),
    clip_scores=5.0,
    missing_eos_penalty=1.0,
    length_penalty=0.01,
    overlong_buffer=2,
    longest=10,
  )
  np.testing.assert_allclose(
    found, [[5 - 1 - 0.2 - 1, -5, NAN, 2 - 1.0 - 0.5]], rtol=1e-12
  )


def test_overlong_is_the_papers():  # DAPO: L_max 100, L_c 20
  tokens = np.array([1, 80, 85, 95, 100, 101])
  np.testing.assert_allclose(
    rewards.overlong(tokens, 100, 20), [0, 0, -0.25, -0.75, -1, -1]
  )


@pytest.mark.parametrize(
  "scores, wanted",
  [
    ([0.0, 0.0, 0.0], False),
    ([1.0, 0.0, 0.0], True),
    ([1.0, NAN, 1.0], False),  # what has no score does not differ
    ([1.0, NAN, 0.5], True),
    ([NAN, NAN, 2.0], False),
    ([NAN, NAN, NAN], False),
  ],
)
def test_a_prompt_is_decided_when_its_scores_differ(scores, wanted):
  assert rewards.decided(np.array([scores])).tolist() == [wanted]
