import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xpo_jax.data import formats, load
from xpo_jax.data.records import Account, Group, Message
from xpo_jax.errors import Exit, XpoError
from xpo_jax.types import Feedback

USER = {"role": "user", "content": "Name a colour."}
BLUE = {"role": "assistant", "content": "Blue."}
ORDER = Feedback.ORDER
SEVEN = {"role": "assistant", "content": "Seven."}
ASKED = (Message("user", "Name a colour."),)


def parse(**row) -> Group:
  layout = formats.detect(set(row), row)
  return formats.parse(row, layout, "f:1")


def pair(prompt, chosen, rejected) -> Group:
  feedback = (1.0, 0.0)
  return Group("f:1", prompt, (chosen, rejected), feedback, Feedback.ORDER)


PAIRS = {
  "text": (
    {"prompt": "Q:", "chosen": " x", "rejected": " y"},
    pair("Q:", " x", " y"),
  ),
  "prompt messages, completion texts": (
    {"prompt": [USER], "chosen": "Blue.", "rejected": "Seven."},
    pair(ASKED, "Blue.", "Seven."),
  ),
  "all messages": (
    {"prompt": [USER], "chosen": [BLUE], "rejected": [SEVEN]},
    pair(ASKED, "Blue.", "Seven."),
  ),
  "messages that contain the prompt": (
    {"chosen": [USER, BLUE], "rejected": [USER, SEVEN]},
    pair(ASKED, "Blue.", "Seven."),
  ),
  "the prompt also as a text": (
    {
      "prompt": "Name a colour.",
      "chosen": [USER, BLUE],
      "rejected": [USER, SEVEN],
    },
    pair(ASKED, "Blue.", "Seven."),
  ),
  "dialogues": (
    {
      "chosen": "\n\nHuman: Name a colour.\n\nAssistant: Blue.",
      "rejected": "\n\nHuman: Name a colour.\n\nAssistant: Seven.",
    },
    pair(ASKED, "Blue.", "Seven."),
  ),
  "a dialogue as the prompt": (
    {
      "prompt": "\n\nHuman: Name a colour.\n\nAssistant:",
      "chosen": " Blue.",
      "rejected": " Seven.",
    },
    pair(ASKED, "Blue.", "Seven."),
  ),
}


@pytest.mark.parametrize("case", PAIRS)
def test_layouts_of_pairs(case):
  row, group = PAIRS[case]
  assert parse(**row) == group


def test_a_dialogue_is_split_at_its_last_assistant_turn():
  start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: A colour?\n\nAssistant:"
  group = parse(chosen=f"{start} Blue", rejected=f"{start} Blue-green")
  assert group.completions == ("Blue", "Blue-green")
  assert group.prompt == (
    Message("user", "Hi"),
    Message("assistant", "Hello"),
    Message("user", "A colour?"),
  )


def test_two_turns_of_one_side_are_one(tmp_path):
  row = {
    "chosen": "\n\nHuman: a\n\nHuman: b\n\nAssistant: c\n\nAssistant: d",
    "rejected": "\n\nHuman: a\n\nHuman: b\n\nAssistant: e",
  }
  path = tmp_path / "f.jsonl"
  path.write_text(json.dumps(row))
  (group,), account = load.load_groups(str(path))
  assert group.prompt == (Message("user", "a\n\nb"),)
  assert group.completions == ("c\n\nd", "e")
  assert account.notes == {"merged_turns": 1}


def test_margin_scores_labels_and_demonstrations():
  row = {"prompt": "p", "chosen": "c", "rejected": "r", "margin": 2}
  margin = parse(**row)
  assert (margin.kind, margin.feedback) == (Feedback.MARGIN, (2.0, 0.0))
  scored = parse(prompt="p", completions=["a", "b", "c"], scores=[1, 3, 2.5])
  assert (scored.kind, scored.feedback) == (Feedback.SCORE, (1.0, 3.0, 2.5))
  for label, value in ((True, 1.0), (1, 1.0), (False, -1.0), (0, -1.0)):
    row = parse(prompt="p", completion="c", label=label)
    assert (row.kind, row.feedback) == (Feedback.BINARY, (value,))
  shown = parse(prompt="p", completion="c")
  assert (shown.kind, shown.feedback) == (Feedback.DEMONSTRATION, (1.0,))


def test_a_row_may_say_which_of_its_texts_were_cut_off():
  row = {"prompt": "Q:", "chosen": " x", "rejected": " y"}
  assert parse(**row, ended=[True, False]).ended == (True, False)
  for all_ended in ({}, {"ended": None}, {"ended": [True, True]}):
    assert parse(**row, **all_ended) == pair("Q:", " x", " y")
  assert parse(prompt="Q:", completion="a", ended=False).ended == (False,)
  assert parse(text="a", ended=False).ended == (False,)
  assert parse(prompt="Q:", ended=False).ended == ()  # nothing there to end
  row = {"prompt": "Q:", "completions": ["a", "b", "c"], "scores": [1, 3, 2]}
  group = parse(**row, ended=[False, True, False])
  assert group.ended == (False, True, False)
  assert group.pick((1, 2), (1, 0), ORDER, "x").ended == (True, False)


def test_messages_train_on_the_last_assistant_turn():
  system = {"role": "system", "content": "Be brief."}
  group = parse(messages=[system, USER, BLUE, USER, SEVEN])
  assert group.completions == ("Seven.",)
  assert [m.role for m in group.prompt] == [
    "system",
    "user",
    "assistant",
    "user",
  ]


def test_d36_ties_are_kept_and_counted(tmp_path):
  rows = [
    {"prompt": "p", "completions": ["a", "b", "c"], "scores": s}
    for s in ([1, 1, 0], [1, 2, 3], [2, 2, 2])
  ]
  path = tmp_path / "f.jsonl"
  path.write_text("\n".join(map(json.dumps, rows)))
  groups, account = load.load_groups(str(path))
  assert [g.feedback for g in groups] == [(1, 1, 0), (1, 2, 3), (2, 2, 2)]
  assert account.notes == {"tied_scores": 2}


def test_the_same_rows_from_jsonl_gzip_and_parquet(tmp_path):
  rows = [
    {"prompt": [USER], "chosen": [BLUE], "rejected": [SEVEN], "extra": i}
    for i in range(3)
  ]
  text = "\n".join(map(json.dumps, rows)).encode()
  (tmp_path / "f.jsonl").write_bytes(text)
  (tmp_path / "f.jsonl.gz").write_bytes(gzip.compress(text))
  pq.write_table(pa.Table.from_pylist(rows), tmp_path / "f.parquet")
  loaded = {}
  for name in ("f.jsonl", "f.jsonl.gz", "f.parquet"):
    groups, account = load.load_groups(str(tmp_path / name))
    assert [g.id for g in groups] == [
      f"{tmp_path}/{name}:{i}" for i in (1, 2, 3)
    ]
    assert account.used == 3
    loaded[name] = [(g.prompt, g.completions, g.feedback) for g in groups]
  assert loaded["f.jsonl"] == [(ASKED, ("Blue.", "Seven."), (1.0, 0.0))] * 3
  assert loaded["f.jsonl.gz"] == loaded["f.parquet"] == loaded["f.jsonl"]


def test_limit_counts_rows_over_all_files(tmp_path):
  for name in "ab":
    rows = [{"prompt": f"{name}{i}", "completion": "c"} for i in range(3)]
    (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
  source = f"{tmp_path}/a.jsonl,{tmp_path}/b.jsonl"
  groups, account = load.load_groups(source, limit=4)
  assert [g.prompt for g in groups] == ["a0", "a1", "a2", "b0"]
  assert account.read == 4
  groups, account = load.load_groups(source, limit=3, first=2)
  assert [g.prompt for g in groups] == ["a2", "b0", "b1"]
  assert account.read == account.used == 3


@pytest.mark.parametrize(
  ("keywords", "message"),
  [
    ({"format": "pair"}, "data.format='pair': choose auto, pairs, "),
    ({"on_bad_row": "drop"}, "data.on_bad_row='drop': choose error or skip"),
    ({"limit": -1}, "data.limit=-1: want 0 (all rows) or more"),
  ],
)
def test_bad_arguments(tmp_path, keywords, message):
  with pytest.raises(XpoError) as caught:
    load.load_groups(str(tmp_path / "f.jsonl"), **keywords)
  assert caught.value.code == Exit.USAGE
  assert str(caught.value).startswith(message)


def test_a_wrong_explicit_format_names_the_column():
  with pytest.raises(formats.BadRow, match="no column 'messages'"):
    formats.parse({"prompt": "p", "completion": "c"}, "messages", "f:1")


def test_account_identity_and_sum():
  first = Account(read=10, used=8)
  with pytest.raises(AssertionError, match="read 10 != used 8"):
    first.check()
  first.dropped.update({"empty": 2})
  first.check()
  second = Account(read=8, used=5)
  second.dropped.update({"prompt_too_long": 2, "empty": 1})
  both = first.then(second)
  both.check()
  assert (both.read, both.used) == (10, 5)
  assert both.reasons() == "empty 3, prompt_too_long 2"
  assert both.table() == [
    ("read", 10),
    ("used", 5),
    ("dropped: empty", 3),
    ("dropped: prompt_too_long", 2),
  ]
  with pytest.raises(ValueError, match="read 8 rows, not 5"):
    both.then(second)
