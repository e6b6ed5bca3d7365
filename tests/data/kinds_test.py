"""Every kind of data from its file to the numbers that a loss sees.

Tokens are bytes, so that places and columns can be counted by hand.
"""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rich.console

from tests import runs
from xpo_jax import config, examples, methods
from xpo_jax.data import formats, inspect, load, packing, parsers, planning
from xpo_jax.errors import XpoError
from xpo_jax.models.weights.tokenizer import Tokenizer, byte_tokenizer
from xpo_jax.types import Feedback

BYTES = byte_tokenizer()
END = BYTES.eos_id
NONE = np.nan

STEPS = {
  "prompt": "2+2*2?",
  "completions": ["2*2=4.", "4+2=6.\n", "So 6."],
  "labels": [1, None, 0.25],
}
SOLVED = {
  "prompt": "1+1?",
  "completions": ["It is", " 2."],
  "labels": [True, True],
}
SAMPLES = [
  {"prompt": "Q:", "samples": [" a", " bb", " ccc"], "rejected": " no"},
  {"prompt": "R:", "samples": [" dd"], "rejected": " never"},
]
RATED = {
  "prompt": "Q:",
  "completions": [" a", " b", " c"],
  "ratings": [[1, 2, 3], [3, 5, None], [2, 2]],
}
# layout -> (a row, its feedback kind, its feedback)
KINDS = {
  "pairs": (
    {"prompt": "Q:", "chosen": " a", "rejected": " b"},
    (Feedback.ORDER, (1, 0)),
  ),
  "samples": (SAMPLES[0], (Feedback.BINARY, (1, 1, 1, -1))),
  "scores": (
    {"prompt": "Q:", "completions": [" a", " b"], "scores": [0.5, -2]},
    (Feedback.SCORE, (0.5, -2)),
  ),
  "ranks": (
    {"prompt": "Q:", "completions": [" a", " b", " c"], "ranks": [2, 1, 7]},
    (Feedback.SCORE, (0.5, 1, 0)),
  ),
  "win_rates": (
    {"prompt": "Q:", "completions": [" a", " b"], "win_rates": [0.75, 0.5]},
    (Feedback.PROBABILITY, (0.75, 0.5)),
  ),
  "ratings": (RATED, (Feedback.SCORE, (2, 4, 2))),
  "steps": (STEPS, (Feedback.BINARY, (-1,))),
  "labels": (
    {"prompt": "Q:", "completion": " a", "label": True},
    (Feedback.BINARY, (1,)),
  ),
  "scalars": (
    {"prompt": "Q:", "completion": " a", "score": -1.25},
    (Feedback.SCORE, (-1.25,)),
  ),
  "demonstrations": (
    {"prompt": "Q:", "completion": " a"},
    (Feedback.DEMONSTRATION, (1,)),
  ),
  "documents": ({"text": "Once."}, (Feedback.DEMONSTRATION, (1,))),
  "prompts": ({"prompt": "Q:"}, (Feedback.DEMONSTRATION, ())),
}


@pytest.fixture
def data(tmp_path):
  """Rows -> (their batch, the examples) for a method, in order."""

  def make(name, rows, keywords=(), **changes):
    c = config.base().unlock()
    c.method = config.method(name, **dict(keywords))
    c.data.source = str(runs.write(tmp_path / "f.jsonl", rows))
    c.data.update(changes)
    method = methods.get(name)
    settings = method.settings(dict(keywords))
    raw, _ = examples.read(c, method, settings)
    part = examples.tokenize(c, raw, BYTES)
    groups = part.tokens
    plan = planning.plan_in_order(
      planning.group_lengths(groups), prompts=len(groups), row_length=1024
    )
    batch = packing.pack_step(
      groups, plan, 0, groups[0].kind, columns=packing.carried(groups)
    )
    first = {k: v[0] for k, v in vars(batch).items() if hasattr(v, "shape")}
    first |= {k: v[0] for k, v in batch.columns.items()}
    return first, part

  return make


def test_prompts_alone_teach_nothing(data):
  words = error_of(data, "sft", [{"prompt": "Q:"}])
  assert "f.jsonl:1: a prompt without completions" in words
  assert "set rollout.completions" in words


def ids(text: str) -> list[int]:
  return list(text.encode())


def completion(batch, b, k) -> list[int]:
  """Target tokens of one completion, read back from the rows."""
  _, count, size = batch["completion_mask"].shape
  start = (b * count + k) * size
  inside = (batch["target_slot"] >= start) & (
    batch["target_slot"] < start + size
  )
  slots, tokens = batch["target_slot"][inside], batch["target_token"][inside]
  assert batch["completion_mask"][b, k].sum() == len(tokens)
  return tokens[np.argsort(slots)].tolist()


def error_of(call, *args, **keywords) -> str:
  with pytest.raises(XpoError) as caught:
    call(*args, **keywords)
  assert "\n" not in str(caught.value)
  return str(caught.value)


# Columns tell the layout; JSONL and Parquet are read alike.


@pytest.mark.parametrize("layout", KINDS)
def test_the_columns_tell_the_kind(tmp_path, layout):
  row, (kind, feedback) = KINDS[layout]
  assert formats.detect({*row, "id"}, row) == layout
  rows = [row, {**row, "id": 7}]
  pq.write_table(pa.Table.from_pylist(rows), tmp_path / "f.parquet")
  runs.write(tmp_path / "f.jsonl", rows)
  found = {}
  for name in ("f.jsonl", "f.parquet"):
    groups, account = load.load_groups(str(tmp_path / name))
    assert (account.read, account.used) == (2, 2)
    assert [g.id for g in groups] == [f"{tmp_path / name}:{i}" for i in (1, 2)]
    found[name] = [
      (g.prompt, g.completions, g.steps, g.ratings) for g in groups
    ]
    for group in groups:
      assert (group.kind, group.feedback) == (kind, feedback)
  assert found["f.jsonl"] == found["f.parquet"]


# Step labels.


def test_step_labels_stand_at_the_last_token_of_their_step(data):
  x, part = data("rm_prm", [STEPS, SOLVED])
  # "2*2=4.\n" 7 bytes (the line end is added), "4+2=6.\n" 7, "So 6." 5, end.
  assert completion(x, 0, 0) == ids("2*2=4.\n4+2=6.\nSo 6.") + [END]
  first = [NONE] * 20
  first[6], first[18] = 1.0, 0.25
  # "It is" 5 bytes, " 2." 3 (it brings its own blank), end, padding.
  second = [NONE] * 9 + [0.0] * 11
  second[4] = second[7] = 1.0
  np.testing.assert_array_equal(x["token_feedback"], [[first], [second]])
  np.testing.assert_array_equal(x["feedback"], [[-1], [1]])
  assert part.table() == [("read", 2), ("used", 2)]


@pytest.mark.parametrize(
  "texts, whole",
  [
    (("a", "b"), ("a\n", "b")),
    (("a\n", "b\n"), ("a\n", "b\n")),
    (("a", "\n\nb", "c"), ("a", "\n\nb\n", "c")),
    (("a ", "b"), ("a ", "b")),
    (("a",), ("a",)),
  ],
)
def test_a_line_end_is_put_where_no_blank_stands(texts, whole):
  assert tuple(parsers.joined(texts)) == whole


def test_a_cut_solution_keeps_its_whole_steps(data):
  late = {**STEPS, "labels": [None, False, True]}
  rows = [STEPS] * 4 + [late]
  x, part = data("rm_prm", rows, max_completion_length=13)
  assert completion(x, 0, 0) == ids("2*2=4.\n")
  assert x["token_feedback"][0, 0].tolist()[6] == 1.0
  assert np.isnan(x["token_feedback"][0, 0, :6]).all()
  assert not x["ended"].any()
  assert part.table() == [
    ("read", 5),
    ("used", 4),
    ("dropped: no_step_left", 1),
    ("note: truncated_completion", 4),
  ]
  # 14 tokens hold two steps to the last byte, but no end.
  x, part = data("rm_prm", [late, STEPS], max_completion_length=14)
  assert completion(x, 0, 0) == ids("2*2=4.\n4+2=6.\n")
  column = x["token_feedback"][0, 0].tolist()
  assert column[13] == 0.0 and np.isnan(column[:13]).all()
  message = error_of(data, "rm_prm", [STEPS], max_completion_length=6)
  assert "nothing is left (no_step_left 1)" in message


def test_steps_after_chat_messages_and_dialogues(data):
  asked = [{"role": "user", "content": "2+2*2?"}]
  x, _ = data("rm_prm", [{**STEPS, "prompt": asked}])
  text = " 2*2=4.\n4+2=6.\nSo 6."
  assert completion(x, 0, 0) == ids(text) + [END]
  assert np.flatnonzero(x["token_feedback"][0, 0] == 1.0).tolist() == [7]
  spoken = "\n\nHuman: 2+2*2?\n\nAssistant:"
  steps = [" 2*2=4.", "So 6."]
  row = {"prompt": spoken, "completions": steps, "labels": [True, False]}
  x, _ = data("rm_prm", [row])
  # The row's blank and the template's are one.
  assert completion(x, 0, 0) == ids(" 2*2=4.\nSo 6.") + [END]
  assert np.flatnonzero(x["token_feedback"][0, 0] == 1.0).tolist() == [7]
  x, _ = data("rm_prm", [{**STEPS, "prompt": asked}], template="chat")
  assert completion(x, 0, 0) == ids("2*2=4.\n4+2=6.\nSo 6.") + [END]
  assert np.flatnonzero(x["token_feedback"][0, 0] == 1.0).tolist() == [6]


def test_a_template_that_trims_keeps_the_ends_of_steps(data, monkeypatch):
  trimming = BYTES.chat_template.replace(
    "message['content']", "message['content'] | trim"
  )
  monkeypatch.setattr(
    "tests.data.kinds_test.BYTES", Tokenizer(BYTES.core, END, None, trimming)
  )
  row = {
    "prompt": "Q",
    "completions": ["  a\n", " b\n", "c\n"],
    "labels": [1, 0, 1],
  }
  x, _ = data("rm_prm", [row], template="chat")
  assert completion(x, 0, 0) == ids("a\n b\nc") + [END]
  np.testing.assert_array_equal(
    x["token_feedback"][0, 0], [NONE, 1, NONE, NONE, 0, 1, NONE]
  )


def test_outcomes_of_solutions(data):
  open_end = {**SOLVED, "labels": [True, None]}
  x, part = data("rm_orm", [STEPS, SOLVED, open_end, SOLVED, SOLVED])
  assert x["feedback"].tolist() == [[-1], [1], [1], [1]]
  assert "token_feedback" not in x
  assert part.table() == [("read", 5), ("used", 4), ("dropped: undecided", 1)]
  assert "every label is desirable (1)" in error_of(data, "rm_orm", [SOLVED])
  assert "label every step" in error_of(data, "rm_orm", [open_end])


def test_rows_that_say_nothing_to_the_method_are_counted(data):
  tie = {"prompt": "Q:", "completions": [" a", " b"], "scores": [1, 1]}
  clear = {**tie, "scores": [1, 2]}
  _, part = data("dpo", [tie, clear, clear])
  assert part.table() == [
    ("read", 3),
    ("used", 2),
    ("dropped: undecided", 1),
    ("note: tied_scores", 1),
  ]
  # Means 2, 1 and 9; of the first two each wins half of the pairs of raters.
  torn = {**RATED, "ratings": [[0, 4], [1, 1], [9]]}
  _, part = data("kto", [torn], {"z0_mode": "zero"}, format="soft")
  assert part.table() == [
    ("read", 1),
    ("used", 1),
    ("note: undecided", 1),
    ("examples made of them", 4),
    ("used", 4),
  ]


def test_a_process_reward_needs_labels_of_both_kinds(data):
  pair = KINDS["pairs"][0]
  message = error_of(data, "rm_prm", [pair])
  assert message.startswith("the method learns from labels of steps, the data")
  message = error_of(
    data, "rm_prm", [SOLVED, {**STEPS, "labels": [1, None, 1]}]
  )
  assert "f.jsonl: every labelled step has the label 1; a process" in message


BAD = {
  "label": (
    {**STEPS, "labels": [True, "no", None]},
    "labels[1] is 'no'; want true/false, a number in [0, 1], or null",
  ),
  "label above 1": (
    {**STEPS, "labels": [True, 2, None]},
    "labels[1] is 2; want true/false, a number in [0, 1], or null",
  ),
  "lengths": ({**STEPS, "labels": [True]}, "3 completions but 1 labels"),
  "no list": ({**STEPS, "labels": True}, "labels is True; want a list"),
  "samples": ({**SAMPLES[0], "samples": " a"}, "samples is ' a'; want a list"),
  "sample": (
    {**SAMPLES[0], "samples": [3]},
    'samples[0] is 3; want text or a list of {"role": ..., "content": ...}',
  ),
  "score": (
    {"prompt": "Q:", "completion": " a", "score": "5"},
    "score is '5'; want a number",
  ),
  "rank": (
    {"prompt": "Q:", "completions": [" a", " b"], "ranks": [0, 1]},
    "ranks[0] is 0; want 1 (best), 2, ...",
  ),
  "half rank": (
    {"prompt": "Q:", "completions": [" a", " b"], "ranks": [1, 1.5]},
    "ranks[1] is 1.5; want 1 (best), 2, ...",
  ),
  "win rate": (
    {"prompt": "Q:", "completions": [" a", " b"], "win_rates": [0.5, 1.5]},
    "win_rates[1] is 1.5; want 0 to 1",
  ),
  "rating": (
    {**RATED, "ratings": [[1], [2], ["3"]]},
    "ratings[2][0] is '3'; want a number",
  ),
  "flat ratings": (
    {**RATED, "ratings": [[1], 2, [3]]},
    "ratings[1] is 2; want a list of numbers",
  ),
  "text": ({"text": ["a"]}, "text is ['a']; want a text"),
  "column": (
    {"prompt": "Q:", "labels": [1]},
    "no column 'completions'; columns found: labels, prompt; layout steps has"
    " prompt, completions, labels",
  ),
  "rejected": (
    {"prompt": "Q:", "samples": [" a"]},
    "no column 'rejected'; columns found: prompt, samples; layout samples has"
    " prompt, samples, rejected",
  ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_names_file_row_column_and_mend(tmp_path, case):
  row, message = BAD[case]
  path = runs.write(tmp_path / "f.jsonl", [row])
  assert error_of(load.load_groups, str(path)) == f"{path}:1: {message}"


DROPS = {
  "unlabelled": {**STEPS, "labels": [None] * 3},
  "empty": {**STEPS, "completions": ["a", " ", "b"]},
  "null": {**STEPS, "completions": ["a", None, "b"]},
  "identical": {"prompt": "Q:", "samples": [" a", " a"], "rejected": " a"},
  "unrated": {**RATED, "ratings": [[1], [None], [3]]},
  "single": {"prompt": "Q:", "completions": [" a"], "ranks": [1]},
}


@pytest.mark.parametrize("reason", DROPS)
def test_a_useless_row_is_dropped_and_counted(tmp_path, reason):
  bad = DROPS[reason]
  good = KINDS[formats.detect(set(bad), bad)][0]
  path = runs.write(tmp_path / "f.jsonl", [good] * 9 + [bad])
  groups, account = load.load_groups(str(path))
  assert (account.read, account.used, len(groups)) == (10, 9, 9)
  assert account.dropped == {reason: 1}


# Self samples with a rejected completion.


@pytest.mark.parametrize("method", ["d2o", "rm_negative"])
def test_the_rejected_completion_is_last_in_short_lists_too(data, method):
  x, part = data(method, SAMPLES)
  np.testing.assert_array_equal(x["feedback"], [[1, 1, 1, -1], [1, 0, 0, -1]])
  np.testing.assert_array_equal(x["present"], [[1, 1, 1, 1], [1, 0, 0, 1]])
  np.testing.assert_array_equal(x["ended"], x["present"])
  for b, k, text in [(0, 2, " ccc"), (0, 3, " no"), (1, 0, " dd")]:
    assert completion(x, b, k) == ids(text) + [END]
  assert completion(x, 1, 3) == ids(" never") + [END]
  assert completion(x, 1, 1) == completion(x, 1, 2) == []
  assert part.table() == [("read", 2), ("used", 2)]


@pytest.mark.parametrize(
  "method, keywords", [("kto", {"z0_mode": "zero"}), ("sft", {}), ("dpo", {})]
)
def test_self_samples_are_no_labels(data, method, keywords):
  message = error_of(data, method, [SAMPLES[1]], keywords)
  assert message.startswith("the data carries BINARY feedback with K = 2")


# Scalars, ranks, margins.


def test_scalar_rewards(data):
  rows = [
    {"prompt": "Q:", "completion": " good", "score": 2},
    {"prompt": "Q:", "completion": " bad", "score": -0.5},
  ]
  x, _ = data("dro", rows)
  assert x["feedback"].tolist() == [[2.0], [-0.5]]
  assert completion(x, 1, 0) == ids(" bad") + [END]
  message = error_of(data, "dpo", rows)
  assert "SCORE feedback with K = 1" in message


@pytest.mark.parametrize(
  "ranks, scores",
  [
    ((1, 2), (1, 0)),
    ((3, 1, 2), (0, 1, 0.5)),
    ((1, 1, 2), (0.75, 0.75, 0)),  # beats one of two, ties with the other
    ((2, 9, 2, 1), (0.5, 0, 0.5, 1)),  # (1 + 1/2) / 3
    ((5, 5, 5), (0.5, 0.5, 0.5)),
  ],
)
def test_ranks_become_shares_of_the_others_beaten(data, ranks, scores):
  texts = [f" {n}" for n in range(len(ranks))]
  row = {"prompt": "Q:", "completions": texts, "ranks": list(ranks)}
  x, part = data("rm_kwise", [row])
  np.testing.assert_array_equal(x["feedback"], [scores])
  tied = len(set(ranks)) < len(ranks)
  assert (("note: tied_scores", 1) in part.table()) == tied


@pytest.mark.parametrize("method", ["dpo", "rm_bt"])
def test_margins(data, method):
  pair = KINDS["pairs"][0]
  x, part = data(method, [{**pair, "margin": m} for m in (0.5, 2)])
  assert x["feedback"].tolist() == [[0.5, 0], [2, 0]]
  assert part.tokens[0].kind is Feedback.MARGIN


# Documents.


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_a_document_is_imitated_whole(data, template, monkeypatch):
  rows = [{"text": " Once upon.\n"}, {"text": "\n\nHuman: Hi"}]
  x, _ = data("sft", rows, template=template)
  # Without a BOS the end token starts a document too.
  assert x["tokens"][0, :3].tolist() == [END, *ids(" O")]
  assert completion(x, 0, 0) == ids(" Once upon.\n") + [END]
  assert completion(x, 1, 0) == ids("\n\nHuman: Hi") + [END]
  assert x["feedback"].tolist() == [[1], [1]]
  monkeypatch.setattr(
    "tests.data.kinds_test.BYTES",
    Tokenizer(BYTES.core, END, 259, BYTES.chat_template),
  )
  x, _ = data("sft", rows, template=template)
  assert x["tokens"][0, :2].tolist() == [259, *ids(" ")]


def test_documents_have_no_prompts(tmp_path):
  path = runs.write(tmp_path / "f.jsonl", [{"text": "a"}])
  c = config.base().unlock()
  c.data.source = str(path)
  assert "plain text have no prompts" in error_of(load.prompts, c.data)


# What `xpo data inspect` shows.


def shown(path, **keywords) -> str:
  console = rich.console.Console(record=True, width=120, file=io.StringIO())
  inspect.inspect_source(str(path), BYTES, console=console, **keywords)
  return console.export_text(styles=True)


def test_inspect_shows_the_labels_of_steps(tmp_path):
  text = shown(runs.write(tmp_path / "f.jsonl", [STEPS]))
  label, green = "\x1b[1;35m", "\x1b[1;32m"
  assert "[label of the step]" in text
  assert f"{green}2*2=4.\x1b[0m{label}[1]\x1b[0m\n{green}4+2=6." in text
  assert f"{green}So 6.\x1b[0m{label}[0.25]" in text
  assert text.count(label) == 3  # the legend and two labelled steps


@pytest.mark.parametrize("layout", KINDS)
def test_inspect_shows_every_kind(tmp_path, layout):
  row, (kind, feedback) = KINDS[layout]
  text = shown(runs.write(tmp_path / "f.jsonl", [row]))
  assert f"{kind.name} feedback, K = {len(feedback)}" in text.replace("\n", "")
  for k, value in enumerate(feedback):
    assert f"[{k}] feedback {value:g}:" in text


def test_inspect_shows_absent_samples(tmp_path):
  text = shown(runs.write(tmp_path / "f.jsonl", SAMPLES[::-1]))
  assert "[1] absent\n[2] absent\n[3] feedback -1:" in text


def test_the_kinds_here_are_all_layouts():
  same = {"dialogues", "messages"}  # pairs and demonstrations, written as chats
  assert set(KINDS) | same == set(formats.COLUMNS)
