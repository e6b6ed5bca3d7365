"""`xpo label`: who is shown what, what is written, and agreement."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from tests import runs
from xpo_jax import label, label_journal
from xpo_jax.data import load
from xpo_jax.data.records import Group
from xpo_jax.errors import Exit, XpoError
from xpo_jax.label_journal import Answer
from xpo_jax.types import Feedback


def groups(count):
  return [
    Group(f"f:{n}", f"p{n}", (f"good {n}", f"bad {n}"), (1.0, 0.0),
          Feedback.ORDER)
    for n in range(count)
  ]  # fmt: skip


def script(*keys):
  """Answers in turn; records (prompt, text shown first)."""
  seen, left = [], list(keys)

  def ask(item, number, of):
    seen.append((item.prompt, item.texts[item.first], item.repeat))
    return left.pop(0)

  return ask, seen


def rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_orders_are_blind_and_steady():
  items = label.plan(groups(400), "ann", 0, 0.25)
  plain, again = items[:400], items[400:]
  good_first = [own.texts[own.first].startswith("good") for own in plain]
  assert 160 < sum(good_first) < 240  # 4 sigma of a fair coin
  assert 65 < len(again) < 135
  first = {own.id: own.first for own in plain}
  assert all(own.repeat and own.first == 1 - first[own.id] for own in again)
  assert items == label.plan(groups(400), "ann", 0, 0.25)
  other = label.plan(groups(400), "bob", 0, 0.25)
  assert [o.id for o in other[:400]] == [o.id for o in plain]
  assert [o.first for o in other[:400]] != [o.first for o in plain]
  # Which text the data prefer does not move the order.
  swapped = [g.pick((1, 0), (1.0, 0.0), g.kind, g.id) for g in groups(400)]
  assert label.plan(swapped, "ann", 0, 0.25) == items


def test_what_is_written(tmp_path):
  out = tmp_path / "labels.jsonl"
  items = label.plan(groups(3), "ann", 0, 1.0)[:5]
  ask, seen = script("first", "second", "tie", "skip", "second")
  ticks = iter(range(100))
  label.session(items, out, "ann", ask, clock=lambda: float(next(ticks)))
  found = rows(out)
  assert [r["choice"] for r in found[:2]] == [
    str(items[0].first), str(1 - items[1].first)
  ]  # fmt: skip
  assert found[0]["chosen"] == seen[0][1] and found[0]["prompt"] == "p0"
  assert found[1]["rejected"] == seen[1][1]
  assert {found[1]["chosen"], found[1]["rejected"]} == {"good 1", "bad 1"}
  assert found[2]["chosen"] is None and found[2]["choice"] == "tie"
  # The repeat of 1 (that of 0 was skipped), shown swapped, same place chosen.
  assert found[3]["repeat"] and found[3]["chosen"] is None
  assert found[3]["id"] == found[1]["id"]
  assert found[3]["choice"] == str(items[1].first)
  assert found[0]["annotator"] == "ann" and found[0]["seconds"] == 1.0
  # It is data: ties and repeats are dropped and counted.
  read, account = load.load_groups(str(out), on_bad_row="skip")
  assert [g.completions[0] for g in read] == [r["chosen"] for r in found[:2]]
  assert account.dropped == {"null": 2}


def test_stop_and_go_on(tmp_path):
  out = tmp_path / "labels.jsonl"
  items = label.plan(groups(4), "ann", 0, 0.0)
  ask, _ = script("first", "quit")
  label.session(items, out, "ann", ask)
  ask, seen = script("tie", "quit")
  label.session(items, out, "ann", ask)
  assert [p for p, *_ in seen] == ["p1", "p2"]
  other = label.plan(groups(4), "bob", 0, 0.0)
  ask, seen = script("first", "quit")
  label.session(other, out, "bob", ask)
  assert seen[0][0] == "p0" and len(rows(out)) == 3


def test_undo(tmp_path):
  out = tmp_path / "labels.jsonl"
  items = label.plan(groups(3), "ann", 0, 0.0)
  keys = ("undo", "first", "skip", "undo", "second", "tie", "undo", "undo")
  ask, seen = script(*keys, "tie", "quit")
  label.session(items, out, "ann", ask)
  # Undo goes back to the last answer, over what was skipped since.
  wanted = ["p0", "p0", "p1", "p2", "p0", "p1", "p2", "p1", "p0", "p1"]
  assert [p for p, *_ in seen] == wanted
  assert [r["choice"] for r in rows(out)] == ["tie"]


def test_longer_lists_give_one_pair():
  texts = tuple("abcde")
  many = [
    Group(f"f:{n}", f"p{n}", texts, (5.0, 4.0, 3.0, 2.0, 1.0), Feedback.SCORE)
    for n in range(300)
  ]
  found = label.comparable(many, 0)
  assert len(found) == 300
  pairs = {g.completions for g in found}
  assert pairs == {(a, b) for a in texts for b in texts if a != b}
  for g in found:
    order = sorted(g.completions)
    assert label.data_choice(g) == str(order.index(min(order)))
  same = Group("f:1", "p", ("a", "a"), (1.0, 0.0), Feedback.ORDER)
  assert label.comparable([same, *groups(1), *groups(1)], 0) == groups(1)


def said(annotator, choices, repeat=False):
  return [
    Answer(str(n), annotator, c, repeat)
    for n, c in enumerate(choices)
    if c != " "
  ]


def test_agreement():
  names = {"0": "0", "1": "1", "t": "tie", " ": " "}
  own = lambda who, text, **more: said(who, [names[c] for c in text], **more)
  answers = [
    *own("ann", "0011t0"),
    *own("bob", "0101t "),
    *own("ann", "01    ", repeat=True),
  ]
  labels = {"0": "0", "1": "0", "4": "1", "5": "1"}
  found = {r["who"]: r for r in label_journal.agreement(answers, labels)}
  assert set(found) == {"ann, bob", "ann, again", "ann, data", "bob, data"}
  both = found["ann, bob"]
  assert both["n"] == 5 and both["agreement"] == 0.6
  # Each says 0 twice, 1 twice, tie once: p_e = (4 + 4 + 1) / 25.
  assert both["kappa"] == pytest.approx((0.6 - 0.36) / (1 - 0.36))
  assert both["low"] < 0.6 < both["high"]
  assert found["ann, again"]["agreement"] == 0.5
  assert found["ann, data"]["n"] == 3
  assert found["ann, data"]["agreement"] == 2 / 3
  assert found["bob, data"]["agreement"] == 0.5
  assert label_journal.kappa([("0", "0")] * 3) is None


def test_page():
  written = io.StringIO()
  console = Console(file=written, width=60, force_terminal=False)
  keys = iter(["what", "T "])
  console.input = lambda prompt: next(keys)
  item = label.Item("x", "ask \x1b[2J me", ("sorted a", "sorted b"), 1, True)
  assert label.page(console, item, 3, 9) == "tie"
  shown = written.getvalue()
  assert shown.index("sorted b") < shown.index("sorted a")
  assert "3 of 9" in shown and "\x1b[2J" not in shown


@pytest.fixture
def labelled(tmp_path, xpo, monkeypatch):
  """Runs the command on rows of ours; where the answers are."""

  def run(made, typed):
    data = runs.write(tmp_path / "rows.jsonl", made)
    out, keys = tmp_path / "labels.jsonl", iter(typed)
    flags = (f"--data={data}", f"--out={out}", "--annotator=ann", "--repeat=0")
    monkeypatch.setattr("builtins.input", lambda *_: next(keys))
    code, text, errors = xpo("label", *flags)
    assert code == 0 and not errors and f"{out}: 3 answers" in text
    return out

  return run


def test_command(tmp_path, labelled):
  made = [runs.pair(n) for n in range(3)]
  out = labelled(made, "1t1")
  found = rows(out)
  assert [r["choice"] == "tie" for r in found] == [False, True, False]
  (with_data,) = json.loads((tmp_path / "labels.agreement.json").read_text())
  right = [r["chosen"] == runs.pair(n)["chosen"] for n, r in enumerate(found)]
  assert with_data["who"] == "ann, data" and with_data["n"] == 2
  assert with_data["agreement"] == np.mean([right[0], right[2]])
  # A row that was being written when the machine went down is asked again.
  out.write_text(out.read_text()[:-9])
  labelled(made, "t")
  assert [r["choice"] == "tie" for r in rows(out)] == [False, True, True]


def drawn(n, texts, scores):
  """A row of the samples.jsonl of a stage."""
  return {
    "prompt": f"Row {n}:",
    "texts": texts,
    "scores": scores,
    "ended": [True] * len(texts),
    "policy": [0] * len(texts),
  }


def test_samples_of_a_stage(tmp_path, labelled):
  """Texts that say nothing, or the same, are not shown; scores are labels."""
  made = [
    drawn(0, [" good", "", " bad"], [2.0, None, 1.0]),
    drawn(1, [" one", " two"], [None, None]),
    drawn(2, [" same", " same", "</s>"], [1.0, 1.0, 0.0]),
    drawn(3, [" low", " low", " high"], [-1.0, -1.0, 3.0]),
  ]
  out = labelled(made, "111")
  found = rows(out)
  assert [(r["prompt"], set(r["texts"])) for r in found] == [
    ("Row 0:", {" good", " bad"}),
    ("Row 1:", {" one", " two"}),
    ("Row 3:", {" low", " high"}),
  ]
  (judge,) = json.loads((tmp_path / "labels.agreement.json").read_text())
  right = [found[0]["chosen"] == " good", found[2]["chosen"] == " high"]
  assert judge["n"] == 2 and judge["agreement"] == np.mean(right)
  # What is written is pairs to train on.
  read, _ = load.load_groups(str(out))
  assert {g.kind for g in read} == {Feedback.ORDER} and len(read) == 3


def test_samples_that_are_none(tmp_path):
  made = [drawn(0, ["a", "b"], [1.0, 0.0]), drawn(1, ["a", "b"], [1.0])]
  path = runs.write(tmp_path / "samples.jsonl", made)
  with pytest.raises(XpoError, match="samples.jsonl:2: 2 texts but 1 scores"):
    label.read(str(path))


@pytest.mark.parametrize(
  "flags, match",
  [
    (("--annotator= ",), "give a name"),
    (("--repeat=2",), "must be in [0, 1]"),
    (("--limit=-1",), "--limit=-1 must be >= 0"),
    (("--out=labels.json",), "must end with .jsonl"),
    (("--out=no/such/labels.jsonl",), "name a file in a folder"),
  ],
)
def test_bad_flags(xpo, flags, match):
  base = ("--data=pairs.jsonl", "--out=labels.jsonl", "--annotator=ann")
  code, _, errors = xpo("label", *base, *flags)
  assert code == Exit.USAGE and match in errors[0] and len(errors) == 1


def test_foreign_files(tmp_path):
  path = runs.write(tmp_path / "pairs.jsonl", map(runs.pair, range(2)))
  with pytest.raises(XpoError, match="pairs.jsonl:1: not a row of xpo label"):
    label_journal.read(path)
