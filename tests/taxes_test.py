"""Right choices and NLL against a table of log-probs."""

import dataclasses
import math

import numpy as np
import pytest

from tests import runs
from xpo_jax import taxes
from xpo_jax.data import templates
from xpo_jax.errors import XpoError
from xpo_jax.models.weights.tokenizer import byte_tokenizer
from xpo_jax.taxes import MEAN, NLL, SUM, Tax, Texts

BYTES = byte_tokenizer()
PLAIN = templates.make_template(BYTES, "plain")


def by_byte(groups):
  """-1 nat a token, but 0.1 for "z" and -log of nothing for the end."""
  price = lambda t: 0.1 if t == ord("z") else 1.0
  return [
    np.array([-sum(price(t) for t in c.tolist()) for c in g.completions])
    for g in groups
  ]


def write(path, *rows):
  return str(runs.write(path / "rows.jsonl", rows))


def question(answers, scores, prompt="?"):
  return {"prompt": prompt, "completions": answers, "scores": scores}


def test_choices_by_hand(tmp_path):
  source = write(
    tmp_path,
    # Sums -2, -3; a token -1, -1: a tie counts half.
    question(["a", "bb"], [1, 0]),
    # Sums -2, -1.6; a token -1, -1.6 / 7.
    question(["a", "zzzzzz"], [0, 1]),
    # Sums -2, -2.2 (12 z): the mean alone is right.
    question(["a", "z" * 12], [0, 1]),
    question(["a" * 40, "b"], [1, 0]),  # too long
  )
  groups = taxes.read_choices(source)
  found = taxes.choices(by_byte, groups, PLAIN, room=20)
  np.testing.assert_allclose(found[SUM], [1, 1, 0, np.nan])
  np.testing.assert_allclose(found[MEAN], [0.5, 1, 1, np.nan])


@pytest.mark.parametrize(
  "row, words",
  [
    (question(["a", "b", "c"], [1, 0, 1]), "rows.jsonl:1: two answers have"),
    ({"prompt": "x", "completion": "y"}, "needs two answers and scores"),
  ],
)
def test_bad_questions(tmp_path, row, words):
  with pytest.raises(XpoError, match=words) as error:
    taxes.read_choices(write(tmp_path, row))
  assert error.value.code == 65


def test_texts_with_feedback_are_no_texts(tmp_path):
  with pytest.raises(XpoError, match="no held-out texts"):
    taxes.read_texts(write(tmp_path, question(["a", "b"], [1, 0])))


def test_nll_of_texts(tmp_path):
  groups = taxes.read_texts(
    write(tmp_path, {"text": "ab"}, {"text": "zzz"}, {"text": "c" * 50})
  )
  sizes = dataclasses.make_dataclass("Sizes", ["max_length"])(20)
  holder = dataclasses.make_dataclass("Holder", ["config"])(sizes)
  model = dataclasses.make_dataclass("Model", ["model", "tokenizer"])
  found = taxes.texts(by_byte, groups, model(holder, BYTES), "plain")
  # Each with its end; the third is cut at 18 and has none.
  assert found.tokens.tolist() == [3, 4, 18]
  np.testing.assert_allclose(found.nats, [3, 1.3, 18])
  values = taxes.per_token(found)
  assert values.mean() == pytest.approx((3 + 1.3 + 18) / 25)
  # Equal rates in every text: no error at all, whatever the lengths.
  same = Texts(np.array([2.0, 6]), np.array([1.0, 3]), ["a", "b"])
  np.testing.assert_allclose(taxes.per_token(same), [2, 2])


def test_table_of_both(tmp_path):
  groups = taxes.read_choices(
    write(tmp_path, *[question(["a", "b"], [1, 0], f"{n}?") for n in range(4)])
  )
  texts = lambda *nats: Texts(
    np.array(nats), np.array([10.0, 30]), ["t1", "t2"]
  )
  right = lambda *x: {SUM: np.array(x), MEAN: np.array(x)}
  paid = {
    "sft": Tax(right(1.0, 1, 0, 0), texts(20.0, 60)),
    "dpo": Tax(right(1.0, 0, 0, 0), texts(21.0, 59)),
  }
  table = taxes.table(paid, groups, "sft", "dpo")
  rows = {row[0]: row[1:] for row in table["rows"]}
  assert list(rows) == [SUM, MEAN, NLL]
  # CR1 of four single rows: s / 2.
  assert rows[SUM][0] == f"0.500 ± {math.sqrt(1 / 3) / 2:.3f}"
  assert rows[SUM][2].startswith("-0.250 [") and rows[SUM][3] == "38%"
  assert rows[NLL][0] == "2.000 ± 0.000" and rows[NLL][1].startswith("2.000")
  assert rows[NLL][3] == "50%"  # one text of two cost more
  assert taxes.numbers(paid["dpo"]) == {SUM: 0.25, MEAN: 0.25, NLL: 2.0}
  few = paid["dpo"].texts._replace(tokens=np.array([10.0, 29]))
  other = paid | {"dpo": Tax(paid["dpo"].choices, few)}
  table = taxes.table(other, groups, "sft", "dpo")
  assert "other tokens" in table["title"]
  assert table["rows"][2][0] == NLL and table["rows"][2][3:] == ["–", ""]
  assert table["rows"][0][3].startswith("-0.250 [")
  only = {name: Tax(None, tax.texts) for name, tax in paid.items()}
  assert [r[0] for r in taxes.table(only, None, "sft", "dpo")["rows"]] == [NLL]
