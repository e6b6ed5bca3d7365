import math

import numpy as np
import pytest

from xpo_jax.evals import diversity


def test_distinct_of_prompt():
  def found(texts, n):
    return diversity.distinct_of_prompt(texts, n).tolist()

  assert found(["a a", "a b"], 1) == [2 / 4, 2 / 4]
  assert found(["a a", "a b"], 2) == [1, 1]
  assert found(["a b", "A B c", "d"], 2) == [2 / 3] * 3
  assert np.isnan(found(["", "x"], 2)).all()


def test_of_prompts():
  texts = ["a b", "a b", "a b", "b c"]
  found = diversity.of_prompts("distinct-2 of a prompt", 2, texts)
  assert found.tolist() == [0.5, 0.5, 1, 1]
  found = diversity.of_prompts("self-BLEU", 2, texts)
  assert found[0] == found[1] == 1 and found[2] < 1


def test_bleu_by_hand():
  """the cat sat on the mat | the cat is on the mat."""
  own = "the cat sat on the mat".split()
  other = "the cat is on the mat".split()
  # 1: the x2 cat on mat = 5 of 6. 2: the-cat on-the the-mat = 3 of 5.
  # 3: on-the-mat = 1 of 4. 4: none of 3. Smoothed from 2 on; same length.
  expected = (5 / 6 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25
  assert diversity.bleu(own, [other]) == pytest.approx(expected, rel=1e-12)


def test_bleu_clips_by_one_reference_and_punishes_shortness():
  # "a a" against "a b c" and "a d": one of two; 2-grams 0 of 1; 3 and 4: none.
  found = diversity.bleu(["a", "a"], [["a", "b", "c"], ["a", "d"]])
  assert found == pytest.approx((1 / 2 * 1 / 2) ** 0.25)
  # Against "a b c" and "a d e f" only: nearest has 3 tokens, exp(1 - 3/2).
  found = diversity.bleu(["a", "a"], [["a", "b", "c"], ["a", "d", "e", "f"]])
  assert found == pytest.approx((1 / 4) ** 0.25 * math.exp(-0.5))
  # Equally near: the shorter, no penalty.
  found = diversity.bleu(["a", "x"], [["a"], ["a", "b", "c"]])
  assert found == pytest.approx((1 / 2 * 1 / 2) ** 0.25)


def test_self_bleu():
  found = diversity.self_bleu(["A film I liked", "a  film i liked", "no word"])
  assert found.tolist() == [1.0, 1.0, 0.0]
  assert np.isnan(diversity.self_bleu(["alone"])).all()
  found = diversity.self_bleu(["", "x y"])
  assert math.isnan(found[0]) and found[1] == 0


def test_sequence_entropy_is_minus_the_sum():
  found = diversity.sequence_entropy([np.log([0.5, 0.25]), np.array([])])
  np.testing.assert_allclose(found, [math.log(8), 0])


def test_entropy_of_a_uniform_policy():
  """Every sequence of 3 out of V: 3 ln V, whatever was drawn."""
  drawn = [np.full(3, -math.log(7))] * 4
  assert diversity.sequence_entropy(drawn).mean() == pytest.approx(
    3 * math.log(7)
  )
