"""Requests for prompts, and filters of made-up ones."""

import itertools
import random

import pytest

from xpo_jax.data import new_prompts
from xpo_jax.data.new_prompts import Pool, Rules


def longest_common(one, two) -> int:
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
    wanted = longest_common(one, two)
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


def test_a_pool_finds_what_comparing_with_every_text_finds():
  """Words that repeat, in any order: sharing them is not a subsequence."""
  noise = random.Random(1)
  text = lambda: " ".join(noise.choices("abcde", k=noise.randrange(7)))
  pool, known, found = Pool(), [], set()
  for _ in range(300):
    new, overlap = text(), noise.choice((0.3, 0.5, 0.7, 0.8, 1.0))
    wanted = any(
      2 * longest_common(new.split(), old.split())
      >= overlap * (len(new.split()) + len(old.split()))
      for old in known
      if new and old
    )
    assert pool.has_like(new, overlap) == wanted
    found.add(wanted)
    pool.add(new)
    known.append(new)
    known, pool = (known, pool) if len(known) < 12 else ([], Pool())
  assert found == {True, False}


def test_the_same_words_in_another_order_are_another_prompt():
  pool = Pool(["why do cats chase dogs"])
  assert not pool.has_like("dogs chase cats do why", 0.7)  # 1 of 5 words
  assert pool.has_like("why do dogs chase dogs", 0.7)  # 4 of 5
  assert not pool.has_like("why do dogs chase dogs", 0.81)
  assert not pool.has_like("", 0.7) and not Pool().has_like("why", 0.7)


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
    ("Tell me a st\ufffdry", "garbled"),
    ("...", "start"),
    ("", "empty"),
  ],
)
def test_a_prompt_by_itself(text, reason):
  assert new_prompts.fault(text.strip()) == reason


def test_what_is_like_a_known_or_a_kept_prompt_is_dropped():
  pool = Pool(["one two three four five six seven eight nine ten"])
  made = {
    "one two three four five six seven a b c": "similar",  # 14 / 20 = 0.7
    "one two three four five six d e f g": "",  # 12 / 20
    "One two three four five six d e f g!": "similar",  # was kept just now
    "write a short poem on a tree": "",
    "draw a poem on a tree": "keyword",
    "a poem": "short",
  }
  assert new_prompts.keep_new(made, pool) == [*made.values()]
  again = new_prompts.keep_new(made, pool)
  assert again == ["similar"] * 4 + ["keyword", "short"]


def test_rules_are_ones_own():
  rules = Rules(overlap=0.5, min_words=1, max_words=4, keywords=("Poem",))
  made = ["a b c d", "a b x y", "a x y z", "my poem", "1 2 3 4 5"]
  # a b x y against a b c d: 4 / 8; a x y z against a b c d: 2 / 8.
  found = new_prompts.keep_new(made, Pool(), rules)
  assert found == ["", "similar", "", "keyword", "long"]


def test_a_request_ends_where_the_next_entry_begins():
  assert new_prompts.request("Tasks:", ["a b", "c"]) == (
    "Tasks:\n\n1. a b\n2. c\n3."
  )
  assert new_prompts.request("", ["a"]) == "1. a\n2."


@pytest.mark.parametrize(
  "reply, prompt",
  [
    (" The Boat", "The Boat"),
    ("9. The Boat\n10. The Sea", "The Boat"),
    ("9) The Boat ", "The Boat"),
    ("\n\n12 Angry Boats", "12 Angry Boats"),
    ("2001: A Boat", "2001: A Boat"),
    (" \n ", ""),
    ("", ""),
  ],
)
def test_a_reply_is_one_line(reply, prompt):
  assert new_prompts.parse(reply) == prompt
