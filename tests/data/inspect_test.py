import io
import json

import pytest
import rich.console

from xpo_jax.data import inspect
from xpo_jax.errors import XpoError
from xpo_jax.models.weights.tokenizer import byte_tokenizer


@pytest.fixture
def path(tmp_path):
  rows = [
    {"prompt": f"Question {i}:", "chosen": " caf\u00e9", "rejected": " no way"}
    for i in range(99)
  ]
  rows.append({"prompt": "p" * 20, "chosen": " a", "rejected": " a"})
  file = tmp_path / "f.jsonl"
  file.write_text("\n".join(map(json.dumps, rows)))
  return str(file)


def printed(path, **keywords) -> str:
  console = rich.console.Console(record=True, width=120, file=io.StringIO())
  inspect.inspect_source(path, byte_tokenizer(), console=console, **keywords)
  return console.export_text(styles=True)


def test_account_lengths_and_a_coloured_example(path):
  text = printed(path, max_completion_length=7)
  assert f"{path}: ORDER feedback, K = 2" in text.replace("\n", "")
  for name, count in (
    ("read", 100),
    ("used", 99),
    ("dropped: identical", 1),
    ("note: truncated_completion", 99),
  ):
    row = next(line for line in text.splitlines() if f" {name} " in line)
    assert str(count) in row
  cyan, green = "\x1b[36m", "\x1b[1;32m"
  assert f"{cyan}Question 0:" in text
  # " cafe'" is 6 bytes and the end token; " no way" is 7 bytes: cut.
  assert f"{green} caf\u00e9\x1b[0m\x1b[1;7;32m<|im_end|>" in text
  assert "[1] feedback 0, cut:" in text
  assert f"{green} no way" in text


def test_lengths_are_those_before_truncation(path):
  text = printed(path, max_completion_length=4)
  row = next(x for x in text.splitlines() if "completion " in x and "8" in x)
  numbers = [cell.strip() for cell in row.split("\u2502")[2:-1]]
  assert (numbers[0], numbers[-1]) == ("7", "8")  # with the end token


def test_errors_pass_through(tmp_path):
  with pytest.raises(XpoError, match="no such file"):
    printed(str(tmp_path / "gone.jsonl"))
