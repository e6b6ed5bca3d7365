"""The bad-input corpus: each input gives its error or its counted drop."""

import gzip
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xpo_jax.data import load, sources
from xpo_jax.errors import Exit, XpoError

GOOD = {"prompt": "Name a colour.", "chosen": " Blue.", "rejected": " Seven."}


def line(**changes) -> str:
  return json.dumps({**GOOD, **changes})


def numbered(n: int) -> str:
  return line(prompt=f"Name colour {n}.")


@pytest.fixture
def write(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)

  def write(content, name="f.jsonl"):
    if isinstance(content, list):
      content = "".join(f"{x}\n" for x in content)
    raw = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(raw)
    return name

  return write


def error_of(*args, **keywords) -> str:
  with pytest.raises(XpoError) as caught:
    load.load_groups(*args, **keywords)
  assert caught.value.code == Exit.DATA
  message = str(caught.value)
  assert "\n" not in message
  return message


ARRAY = json.dumps([GOOD, GOOD])
FILES = {
  "D1": (b"", "0 rows in f.jsonl; give a file that has data"),
  "D3": (
    [*map(numbered, range(6)), line()[:30]],
    "f.jsonl:7: not a JSON object (Unterminated string starting at column 30);"
    " mend the line or set data.on_bad_row=skip",
  ),
  "D5": (
    f"{line()}\n".encode() + b'{"prompt": "caf\xe9"}\n',
    f"f.jsonl:2: byte 0xe9 at file offset {len(line()) + 1 + 15} is not UTF-8;"
    " convert the file",
  ),
  "D7": (
    ARRAY,
    "f.jsonl:1: one JSON array where JSONL is expected; write one object a"
    " line (jq -c '.[]' does it)",
  ),
  "D8": (
    ['{"prompt": "a", "chosen": "b", "rejected": "c", "chosen": "d"}'],
    "f.jsonl:1: key 'chosen' twice in one object; keep one",
  ),
  "D9": (
    [line(), '{"prompt": "a", "margin": NaN}'],
    "f.jsonl:2: NaN is not JSON; use a number or null",
  ),
  "D9-infinity": (
    ['{"prompt": "a", "margin": -Infinity}'],
    "f.jsonl:1: -Infinity is not JSON; use a number or null",
  ),
  "D42": (
    ['{"prompt": "a\\ud800b", "chosen": "c", "rejected": "d"}'],
    "f.jsonl:1: lone surrogate U+D800 at character 1; remove it",
  ),
  "scalar": (["7"], "f.jsonl:1: a int, not a JSON object; one object a line"),
}


@pytest.mark.parametrize("case", FILES)
def test_bad_file(write, case):
  content, message = FILES[case]
  assert error_of(write(content)) == message


def messages(*roles: str) -> list[dict]:
  return [{"role": r, "content": f"turn {i}"} for i, r in enumerate(roles)]


def scored(**changes) -> dict:
  return {"prompt": "p", "completions": ["a", "b"], "scores": [1, 2], **changes}


def dialogue(*turns: str) -> str:
  names = ("Human", "Assistant")
  return "".join(f"\n\n{names[i % 2]}: {t}" for i, t in enumerate(turns))


ROWS = {
  "D16": (
    {"prompt": "p", "chosen": "c"},
    "no column 'rejected'; columns found: chosen, prompt; layout dialogues has"
    " chosen, rejected",
  ),
  "D16-unknown": (
    {"question": "q", "answer": "a"},
    "columns answer, question are no known layout; accepted: pairs: prompt,"
    " chosen, rejected; dialogues: chosen, rejected; samples: prompt, samples,"
    " rejected; scores: prompt, completions, scores; ranks: prompt,"
    " completions, ranks; win_rates: prompt, completions, win_rates; ratings:"
    " prompt, completions, ratings; steps: prompt, completions, labels; labels:"
    " prompt, completion, label; scalars: prompt, completion, score;"
    " demonstrations: prompt, completion; messages: messages; documents: text;"
    " prompts: prompt",
  ),
  "D16-part": (
    {"prompt": "p", "completions": [" a", " b"]},
    "no column 'scores'; columns found: completions, prompt; layout scores has"
    " prompt, completions, scores",
  ),
  "D16-no-prompt": (
    {"chosen": "c", "rejected": "r"},
    "no column 'prompt', and chosen carries no prompt: it is neither a"
    " dialogue (\\n\\nHuman: ...) nor a list of several messages",
  ),
  "D22": (
    {**GOOD, "prompt": " \n"},
    "the prompt is empty; give it a text",
  ),
  "D29": (
    {"messages": messages("user", "user", "assistant")},
    "messages[1] has role user, want assistant: roles are an optional system,"
    " then user and assistant in turn",
  ),
  "D29-system": (
    {"messages": messages("system", "assistant")},
    "messages[1] has role assistant, want user: roles are an optional system,"
    " then user and assistant in turn",
  ),
  "D30": (
    {"messages": messages("user", "gpt")},
    "messages[1].role 'gpt'; allowed: system, user, assistant",
  ),
  "D32": (
    {"messages": [{"role": "user", "content": ["hi"]}]},
    "messages[0].content is a list; want a text",
  ),
  "D32-completion": (
    {**GOOD, "chosen": 3},
    'chosen is 3; want text or a list of {"role": ..., "content": ...}',
  ),
  "D33": (
    {"chosen": dialogue("a", "b"), "rejected": dialogue("A", "c")},
    "chosen and rejected have different prompts (turn 1 differs); make all"
    " turns before the last assistant turn equal",
  ),
  "D33-turns": (
    {"chosen": dialogue("a", "b"), "rejected": dialogue("a", "b", "c", "d")},
    "chosen and rejected have different prompts (1 and 3 turns); make all"
    " turns before the last assistant turn equal",
  ),
  "D33-column": (
    {
      "prompt": "other",
      "chosen": messages("user", "assistant"),
      "rejected": messages("user", "assistant"),
    },
    "prompt and the turns inside chosen differ; keep one",
  ),
  "D34": (
    {"prompt": "p", "completion": "c", "label": "true"},
    "label 'true'; want true/false or 1/0",
  ),
  "D34-null": (
    {"prompt": "p", "completion": "c", "label": None},
    "label None; want true/false or 1/0",
  ),
  "D37": (
    scored(scores=["4.5", 1]),
    "scores[0] is '4.5'; want a number",
  ),
  "D37-bool": (scored(scores=[1, True]), "scores[1] is True; want a number"),
  "D37-huge": (
    scored(scores=[10**400, 1]),
    "scores[0] is inf; want a finite number",
  ),
  "lengths": (scored(scores=[1, 2, 3]), "2 completions but 3 scores"),
  "D38": ({**GOOD, "margin": -0.5}, "margin -0.5 is negative; want >= 0"),
  "ended": (
    {**GOOD, "ended": [True]},
    "ended is [True]; want a list of 2 true or false",
  ),
  "ended-number": (
    {"prompt": "p", "completion": "c", "ended": 1},
    "ended is 1; want true or false",
  ),
}


@pytest.mark.parametrize("case", ROWS)
def test_bad_row(write, case):
  row, message = ROWS[case]
  assert error_of(write([json.dumps(row)])) == f"f.jsonl:1: {message}"


DROPS = {
  "D17": ({**GOOD, "chosen": None}, "null"),
  "D18": ({**GOOD, "chosen": " x", "rejected": " x"}, "identical"),
  "D19": ({**GOOD, "chosen": "x ", "rejected": " x"}, "identical_after_trunc"),
  "D20": ({**GOOD, "chosen": ""}, "empty"),
  "D21": ({**GOOD, "rejected": " \n\t"}, "empty"),
  "D21-end": ({**GOOD, "rejected": " <|im_end|>"}, "empty"),
  "D31": ({"messages": messages("user")}, "no_target"),
  "D39": (scored(completions=["a"], scores=[1]), "single"),
  "null-score": (scored(scores=[1, None]), "null"),
  "D26": ({**GOOD, "chosen": "x" * 10_000_000}, "too_long"),
}


@pytest.mark.parametrize("case", DROPS)
def test_dropped_row(write, case):
  row, reason = DROPS[case]
  layout = "messages" if case == "D31" else "scores" if "scores" in row else ""
  good = {
    "": GOOD,
    "messages": {"messages": messages("user", "assistant")},
    "scores": scored(),
  }[layout]
  rows = [json.dumps(good)] * 9 + [json.dumps(row)]
  groups, account = load.load_groups(write(rows))
  assert len(groups) == 9
  assert (account.read, account.used) == (10, 9)
  assert account.dropped == {reason: 1}
  assert account.warnings == [f"f.jsonl: 10.0% of 10 rows dropped ({reason} 1)"]


def test_d2_header_only_parquet(write, tmp_path):
  schema = pa.schema([("prompt", pa.string()), ("chosen", pa.string())])
  pq.write_table(schema.empty_table(), tmp_path / "f.parquet")
  assert error_of("f.parquet") == (
    "0 rows in f.parquet; give a file that has data"
  )


def test_d3_skipped_and_counted(write):
  rows = [*map(numbered, range(6)), line()[:30], '{"prompt": "b", "x": NaN}']
  groups, account = load.load_groups(write(rows), on_bad_row="skip")
  assert len(groups) == 6
  assert (account.read, account.used) == (8, 6)
  assert account.dropped == {"bad_json": 1, "nan_literal": 1}


def test_d4_d6_bom_crlf_and_blank_lines_change_nothing(write):
  plain, _ = load.load_groups(write([numbered(1), numbered(2)]))
  odd = f"\ufeff{numbered(1)}\r\n{numbered(2)}\r\n\r\n \n"
  assert load.load_groups(write(odd))[0] == plain


def test_d10_gzip_bomb_is_refused_before_it_is_inflated(write, monkeypatch):
  bomb = gzip.compress(b'{"prompt": "' + b"a" * 8_000_000 + b'"}\n')
  write(bomb, "bomb.jsonl.gz")
  monkeypatch.setattr(gzip.GzipFile, "readline", None)  # not even started
  message = error_of("bomb.jsonl.gz")
  assert message == (
    f"bomb.jsonl.gz: {len(bomb)} bytes that declare 8000015 unpacked: cut"
    " short, or a bomb (over 200 times); fetch it again, or unpack it yourself"
  )


def test_d10_a_false_size_in_the_trailer_does_not_help(write):
  bomb = gzip.compress(b"\n" * 2_000_000)[:-4] + (7).to_bytes(4, "little")
  message = error_of(write(bomb, "bomb.jsonl.gz"))
  assert message.startswith("bomb.jsonl.gz: unpacks to more than 200 times")


def test_cut_or_foreign_gzip(write):
  whole = gzip.compress(numbered(1).encode())
  assert "cut short, or a bomb" in error_of(write(whole[:-20], "a.jsonl.gz"))
  small = whole[:-8] + bytes(4) + whole[-4:]  # a wrong checksum
  for bad in (small, b"not packed"):
    assert "damaged gzip file (" in error_of(
      write(bad + bytes(4), "b.jsonl.gz")
    )


PATHS = {
  "../x.jsonl": "'..' is refused; write the absolute path",
  "*.jsonl": "globs are not read; list files, with commas",
  "https://h/x.jsonl": "URLs are not read; download the file first",
  "leaves.jsonl": "the link leaves the current folder, to ",
  "scripted": "remote code refused; a dataset script is never run, name its"
  " data files",
  "folder": "is a folder; name its files, with commas",
  "make.py": "remote code refused; a dataset script is never run",
  "gone.jsonl": "no such file; give a path to .jsonl, .json, .jsonl.gz,"
  " .json.gz, .parquet, or films",
  "table.csv": "not a kind of file that is read (.jsonl, .json, .jsonl.gz,"
  " .json.gz, .parquet); convert it to JSONL",
  "": "name a file, or films",
}


@pytest.mark.parametrize("path", PATHS)
def test_d11_d12_paths(write, tmp_path, monkeypatch, path):
  inside = tmp_path / "inside"
  (inside / "scripted").mkdir(parents=True)
  (inside / "scripted" / "build.py").touch()
  (inside / "folder").mkdir()
  (inside / "make.py").touch()
  (inside / "table.csv").touch()
  write([line()], "outside.jsonl")
  (inside / "leaves.jsonl").symlink_to(tmp_path / "outside.jsonl")
  monkeypatch.chdir(inside)
  message = error_of(path)
  assert message.startswith(f"data.source {path!r}: {PATHS[path]}")
  # An absolute path is the operator's own choice.
  assert load.load_groups(str(tmp_path / "outside.jsonl"))[1].used == 1


def test_d14_same_file_twice(write):
  write([line()], "a.jsonl")
  write([numbered(2)], "b.jsonl")
  assert load.load_groups("a.jsonl,b.jsonl")[1].used == 2
  assert error_of("a.jsonl, b.jsonl,./a.jsonl") == (
    "data.source: './a.jsonl' is listed twice; name each file once"
  )


def test_d15_leak(write):
  train, _ = load.load_groups(write(list(map(numbered, range(5)))))
  held, _ = load.load_groups(write(list(map(numbered, range(5, 8))), "h.jsonl"))
  load.check_leak(train, held)
  with pytest.raises(XpoError, match="f.jsonl:1: 2 of 5 evaluation rows"):
    load.check_leak(train[:2], [*train[:2], *held])


def test_d27_all_dropped_gives_the_reasons(write):
  rows = [line(chosen="")] * 3 + [line(chosen=None)]
  assert error_of(write(rows), on_bad_row="skip") == (
    "f.jsonl: 100.0% of 4 rows dropped, nothing is left (empty 3, null 1)"
  )


def test_more_than_a_fifth_dropped_stops_unless_accepted(write):
  path = write([numbered(i) for i in range(7)] + [line(chosen="")] * 3)
  assert error_of(path) == (
    "f.jsonl: 30.0% of 10 rows dropped (empty 3); mend the data, or accept it"
    " with data.on_bad_row=skip"
  )
  assert load.load_groups(path, on_bad_row="skip")[1].used == 7


def labelled(*labels) -> list[str]:
  return [
    json.dumps({"prompt": f"p{i}", "completion": "c", "label": value})
    for i, value in enumerate(labels)
  ]


def test_d34_mixed_label_types(write):
  assert error_of(write(labelled(True, False, 1))) == (
    "f.jsonl:3: label 1 is int, that of f.jsonl:1 is bool; use true/false or"
    " 1/0 throughout"
  )


@pytest.mark.parametrize(
  ("label", "negative", "words"),
  [
    (1, "both", "desirable (1); the method needs both classes"),
    (False, "both", "undesirable (0); the method needs both classes"),
    (1, "negative", "desirable (1); the method learns from undesirable ones"),
  ],
)
def test_d35_one_class(write, label, negative, words):
  groups, _ = load.load_groups(write(labelled(label, label)))
  with pytest.raises(
    XpoError, match=re.escape(f"f.jsonl: every label is {words}")
  ):
    load.check_classes(groups, "f.jsonl", negative)


def test_d35_one_class_is_enough_to_forget(write):
  groups, _ = load.load_groups(write(labelled(False, False)))
  load.check_classes(groups, "f.jsonl", "negative")


def test_margin_in_some_rows_only(write):
  rows = [line(margin=2), line()]
  assert error_of(write(rows)) == (
    "f.jsonl:2: ORDER feedback, but f.jsonl:1 has MARGIN; give every row a"
    " margin, or none"
  )


def test_d38_nan_margin_in_parquet(write, tmp_path):
  table = pa.Table.from_pylist([{**GOOD, "margin": float("nan")}])
  pq.write_table(table, tmp_path / "f.parquet")
  assert error_of("f.parquet") == (
    "f.parquet:1: margin is nan; want a finite number"
  )


def test_damaged_parquet(write):
  message = error_of(write(b"PAR1" + b"\0" * 40, "f.parquet"))
  assert message.startswith("f.parquet: not a readable Parquet file: ")


def test_a_line_that_is_too_long(write, monkeypatch):
  monkeypatch.setattr(sources, "MAX_LINE", 20)
  assert error_of(write([line()])) == (
    "f.jsonl: a line is longer than 20 bytes; one row a line"
  )
