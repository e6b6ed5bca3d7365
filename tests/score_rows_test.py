"""Texts of tokens, rows and means of `xpo score`."""

import numpy as np
import pytest

from xpo_jax import score_rows
from xpo_jax.data.records import Group, Message, TokenGroup
from xpo_jax.models.weights.tokenizer import byte_tokenizer, train_bpe
from xpo_jax.score_rows import Scored
from xpo_jax.types import Feedback

BYTES = byte_tokenizer()
END = BYTES.eos_id


def ids_of(text: str, *more: int) -> np.ndarray:
  return np.array([*text.encode("utf-8"), *more], np.int32)


def test_a_character_stands_where_it_is_complete():
  # "né" is n, C3 A9; "猫" three bytes.
  found = score_rows.pieces(BYTES, ids_of("né 猫", END))
  assert found == [
    ("n", ""),
    ("", ""),
    ("é", ""),
    (" ", ""),
    ("", ""),
    ("", ""),
    ("猫", ""),
    ("", "<|im_end|>"),
  ]


def test_a_cut_character_keeps_its_mark():
  ids = ids_of("a猫")[:-1]
  assert score_rows.pieces(BYTES, ids)[-1] == ("\ufffd", "")
  closed = score_rows.pieces(BYTES, [*ids, END])
  assert [text for text, _ in closed] == ["a", "", "\ufffd", ""]


@pytest.mark.parametrize("seed", range(3))
def test_texts_join_to_what_the_tokenizer_says(seed):
  words = "the naïve 猫 said: 12 🚣🏽 boats!\n\tÜber \ufffd".split(" ")
  noise = np.random.default_rng(seed)
  texts = [" ".join(noise.choice(words, 9)) for _ in range(8)]
  for tokenizer in (BYTES, train_bpe(texts[:4], 290)):
    for text in texts:
      ids = [*tokenizer.encode(text), tokenizer.eos_id]
      for part in (ids, ids[: noise.integers(1, len(ids))]):
        found = score_rows.pieces(tokenizer, part)
        assert "".join(t for t, _ in found) == tokenizer.decode(part)
        assert len(found) == len(part)


def scored(kind=Feedback.ORDER, feedback=(1.0, 0.0), rewards=(0.5, -0.25)):
  group = Group(
    id="f.jsonl:3",
    prompt=(Message("user", "q"),),
    completions=("ab", "c"),
    feedback=feedback,
    kind=kind,
    cluster="film",
  )
  tokens = TokenGroup(
    id=group.id,
    cluster="film",
    prompt=ids_of("q"),
    completions=(ids_of("ab", END), ids_of("c")),
    ended=(True, False),
    feedback=feedback,
    kind=kind,
  )
  return Scored(
    group=group,
    tokens=tokens,
    rewards=np.array(rewards, np.float32),
    credits=[np.array([0.25, 0.5, -0.25]), np.array([-0.25])],
    logps=[np.array([-1.0, -2.0, -3.0]), np.array([-4.0])],
    reference_logps=[np.array([-2.0, -4.0, -2.0]), np.array([-3.0])],
  )


def test_rows_say_what_was_scored():
  first, second = score_rows.rows(scored(), "implicit_reward", BYTES)
  assert {k: v for k, v in first.items() if k != "tokens"} == {
    "id": "f.jsonl:3",
    "cluster": "film",
    "prompt": [{"role": "user", "content": "q"}],
    "completion": "ab",
    "k": 0,
    "feedback": 1.0,
    "implicit_reward": 0.5,
    "length": 3,
    "ended": True,
  }
  assert first["tokens"][1:] == [
    {"text": "b", "credit": 0.5, "logp": -2.0, "reference_logp": -4.0},
    {"text": "", "control": "<|im_end|>", "credit": -0.25, "logp": -3.0,
     "reference_logp": -2.0},
  ]  # fmt: skip
  assert (second["k"], second["length"], second["ended"]) == (1, 1, False)
  (bare,) = score_rows.rows(scored(), "reward", None)[1:]
  assert bare["reward"] == -0.25 and "tokens" not in bare


def groups(kind, feedback, clusters=("a", "a", "b")):
  return [
    Group(f"r:{n}", "p", ("x",) * len(f), tuple(f), kind, cluster)
    for n, (f, cluster) in enumerate(zip(feedback, clusters, strict=True))
  ]


def test_pairs_are_ranked_by_their_feedback():
  rows = groups(Feedback.ORDER, [(1, 0)] * 3)
  found = score_rows.summarise(rows, [(3, 1), (0, 1), (2, 2)])
  assert found["rewards/chosen"].mean == pytest.approx(5 / 3)
  assert found["rewards/rejected"].mean == pytest.approx(4 / 3)
  # Margins 2, -1, 0: one of three is right, a tie is not.
  assert found["rewards/margin"].mean == pytest.approx(1 / 3)
  assert found["rewards/accuracy"].mean == pytest.approx(1 / 3)
  # Two clusters: sums of deviations (2/3 - 1/3) and -1/3, so CR0 = 2/81.
  assert found["rewards/accuracy"].se == pytest.approx(np.sqrt(2 / 81 * 2))
  assert found["rewards/accuracy"][2:] == (3, 2)


def test_lists_compare_best_and_worst_and_leave_equals_out():
  rows = groups(Feedback.SCORE, [(1, 5, 3), (2, 2), (4, 1)])
  found = score_rows.summarise(rows, [(0, 7, 9), (1, 2), (3, 5)])
  assert found["rewards/margin"].mean == pytest.approx((7 - 2) / 2)
  assert found["rewards/accuracy"].n == 2
  soft = groups(Feedback.PROBABILITY, [(0.2, 0.8)] * 3)
  found = score_rows.summarise(soft, [(1, 2)] * 3)
  assert found["rewards/accuracy"].mean == 1


def test_labels_have_a_mean_a_class_and_texts_one():
  rows = groups(Feedback.BINARY, [(1,), (-1,), (1,)])
  found = score_rows.summarise(rows, [(1.0,), (-3.0,), (2.0,)])
  assert {k: v.mean for k, v in found.items()} == {
    "rewards/desirable": 1.5,
    "rewards/undesirable": -3.0,
  }
  rows = groups(Feedback.DEMONSTRATION, [(1,)] * 3)
  assert score_rows.summarise(rows, [(1,), (2,), (6,)])["rewards"].mean == 3
