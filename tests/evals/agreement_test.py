import math

import numpy as np
import pytest

from xpo_jax.evals import agreement

JUDGE, PEOPLE = [5, 4, 4, 1], [4, 3, 1, 2]


def test_labeler_alignment():
  found = agreement.labeler_alignment(
    [0.9, 0.4, 0.5, float("nan"), 0.7, 0.2], [1, 1, 0, 1, 0.5, 0.1]
  )
  np.testing.assert_allclose(found, [1, 0, 0.5, np.nan, np.nan, 1])


def test_pairs_by_hand():
  """01 02 03 13 right, 12 tied by the judge, 23 wrong: 4.5 of 6."""
  assert agreement.pairwise_accuracy(JUDGE, PEOPLE) == 4.5 / 6
  assert agreement.pairwise_accuracy([1, 2, 3], [1, 1, 2]) == 1
  assert math.isnan(agreement.pairwise_accuracy([1, 2], [3, 3]))


def test_exact_match():
  assert agreement.exact_match([1, 5, 3], [10, 30, 20]) == 1
  assert agreement.exact_match([1, 5, 5], [10, 30, 20]) == 0
  assert agreement.exact_match([1, 5, 5], [10, 30, 30]) == 1


def test_spearman_by_hand():
  # Ranks 4 2.5 2.5 1 and 4 3 1 2, less 2.5: 1.5 0 0 -1.5 and 1.5 .5 -1.5 -.5.
  expected = (1.5 * 1.5 + 1.5 * 0.5) / math.sqrt(4.5 * 5)
  assert agreement.spearman(JUDGE, PEOPLE) == pytest.approx(expected)
  assert agreement.spearman([1, 2, 3], [9, 5, 1]) == pytest.approx(-1)
  assert math.isnan(agreement.spearman([1, 1], [1, 2]))


def test_kendall_by_hand():
  # 4 concordant, 1 discordant; 5 pairs untied by the judge, 6 by people.
  expected = (4 - 1) / math.sqrt(5 * 6)
  assert agreement.kendall(JUDGE, PEOPLE) == pytest.approx(expected)
  assert agreement.kendall([1, 2, 3], [9, 5, 1]) == -1
  assert math.isnan(agreement.kendall([1, 2], [7, 7]))


def test_five_best():
  assert agreement.five_best(JUDGE, PEOPLE) == 1
  assert agreement.five_best([5, 5, 2], [1, 3, 9]) == 0
  assert agreement.five_best([5, 5, 2], [9, 3, 9]) == 0.5
  assert math.isnan(agreement.five_best([4, 4.9], [1, 2]))


def test_lists_skip_what_the_judge_left_out():
  nan = float("nan")
  found = agreement.of_lists(
    [JUDGE, [nan, 1, 2], [nan, 3]], [PEOPLE, [9, 1, 2], [1, 2]]
  )
  assert found.lists == 2
  assert found.pairwise == pytest.approx((0.75 + 1) / 2)
  assert found.exact == 0.5
  assert found.kendall == pytest.approx((3 / math.sqrt(30) + 1) / 2)
  assert found.five_best == 1  # the second list has none perfect
  assert math.isnan(agreement.of_lists([], []).exact)
