"""Filters of made-up prompts."""

import itertools
import random

import pytest

from xpo_jax.data import new_prompts
from xpo_jax.data.new_prompts import Rules


def table_length(one, two) -> int:
  """The longest common subsequence by trying all of them."""
  for size in range(len(one), 0, -1):
    for own in itertools.combinations(one, size):
      rest = iter(two)
      if all(word in rest for word in own):
        return size
  return 0


def test_common_length_is_that_of_the_best_of_all_subsequences():
  noise = random.Random(0)
  for _ in range(200):
    one, two = (
      [noise.choice("abc") for _ in range(noise.randrange(8))] for _ in "12"
    )
    wanted = table_length(one, two)
    assert new_prompts.common_length(one, two) == wanted
    assert new_prompts.common_length(two, one) == wanted


def test_rouge_l_by_hand():
  one = new_prompts.words("Name three RED boats, please.")
  two = new_prompts.words("please name the three big boats")
  assert one == ["name", "three", "red", "boats", "please"]
  # name three boats: 3 of 5 and of 6 words; 2 (3/5) (3/6) / (3/5 + 3/6).
  assert new_prompts.rouge_l(one, two) == pytest.approx(6 / 11)
  assert new_prompts.rouge_l(one, one) == 1.0
  assert new_prompts.rouge_l([], []) == 0.0


def test_words_of_scripts_without_spaces():
  assert new_prompts.words("写3首诗, Été_x") == [
    "写",
    "3",
    "首",
    "诗",
    "été",
    "x",
  ]


@pytest.mark.parametrize(
  "text, reason",
  [
    ("Tell me a story", ""),
    ("Tell a story", "short"),
    ("w " * 150, ""),
    ("w " * 151, "long"),
    ("Describe the Picture of a boat", "keyword"),
    ("Describe the picturesque town of Lund", ""),
    ("- tell me a story", "start"),
    ("“Tell me” is a phrase; who says it?", ""),
    ("", "short"),
  ],
)
def test_a_prompt_by_itself(text, reason):
  assert new_prompts.fault(text.strip()) == reason


def test_what_is_like_a_known_or_a_kept_prompt_is_dropped():
  known = ["one two three four five six seven eight nine ten"]
  made = [
    "one two three four five six seven a b c",  # 14 / 20 = 0.7: not below it
    " one two three four five six d e f g ",  # 12 / 20
    "One two three four five six d e f g!",  # was kept just now
    "write a short poem on a tree",
    "draw a poem on a tree",
    "a poem",
  ]
  kept, dropped = new_prompts.keep_new(made, known)
  assert kept == [made[1].strip(), made[3]]
  assert dropped == {"similar": 2, "keyword": 1, "short": 1}


def test_rules_are_ones_own():
  rules = Rules(overlap=0.5, min_words=1, max_words=4, keywords=("Poem",))
  made = ["a b c d", "a b x y", "a x y z", "my poem", "1 2 3 4 5"]
  kept, dropped = new_prompts.keep_new(made, [], rules)
  # a b x y against a b c d: 4 / 8; a x y z against a b c d: 2 / 8.
  assert kept == ["a b c d", "a x y z"]
  assert dropped == {"similar": 1, "keyword": 1, "long": 1}
