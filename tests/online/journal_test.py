"""Files of a rollout: whole, of the right thing, or not there."""

import json

import numpy as np
import pytest

from xpo_jax.data.records import Message
from xpo_jax.online import journal

ARRAYS = {
  "tokens": np.arange(12, dtype=np.int32).reshape(3, 4),
  "mask": np.array([True, False]),
  "empty": np.zeros((0, 2), np.float32),
}
LABEL = {"seed": 3, "prompts": [1, 2], "policy": "0x1p-3"}


def test_what_is_written_is_read(tmp_path):
  path = tmp_path / "000001.0.samples"
  journal.write(path, ARRAYS, LABEL)
  found = journal.read(path, LABEL)
  assert found.keys() == ARRAYS.keys()
  for name, value in ARRAYS.items():
    assert found[name].dtype == value.dtype
    np.testing.assert_array_equal(found[name], value)
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_follows_from_something_else_is_not_used(tmp_path):
  path = tmp_path / "x.samples"
  assert journal.read(path, LABEL) is None
  journal.write(path, ARRAYS, LABEL)
  assert journal.read(path, LABEL | {"seed": 4}) is None
  assert journal.read(path, LABEL | {"policy": "0x1p-4"}) is None


def test_any_damage_is_found(tmp_path):
  path = tmp_path / "x.samples"
  journal.write(path, ARRAYS, LABEL)
  whole = path.read_bytes()
  for end in (0, 4, len(whole) // 2, len(whole) - 1):
    path.write_bytes(whole[:end])
    assert journal.read(path, LABEL) is None, end
  for at in range(0, len(whole), 7):
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :])
    found = journal.read(path, LABEL)
    # A bit of the header may mean nothing; numbers are never other ones.
    if found is not None:
      for name, value in ARRAYS.items():
        np.testing.assert_array_equal(found[name], value)


def test_texts_for_people(tmp_path):
  turn = (Message("user", "Name a colour, çok güzel."),)
  journal.write_texts(
    tmp_path,
    7,
    ["plain", turn],
    [["a", "b"], ["c", ""]],
    np.array([[1.5, np.nan], [np.inf, -2.0]]),
    np.array([[True, False], [True, True]]),
  )
  text = (tmp_path / "rollouts" / "000007.jsonl").read_text("utf-8")
  one, two = map(json.loads, text.splitlines())
  assert one == {
    "prompt": "plain",
    "completions": ["a", "b"],
    "scores": [1.5, None],
    "ended": [True, False],
  }
  assert two["scores"] == [None, -2.0] and two["completions"] == ["c", ""]
  assert "çok güzel" in two["prompt"] and "çok güzel" in text


@pytest.mark.parametrize(
  "oldest, step, gone",
  [
    (0, 0, set()),
    (1, 4, {"000000.0.samples", "000000.rollout", "e000002.0.judge"}),
    (
      2,
      5,
      {
        "000000.0.samples",
        "000000.rollout",
        "000001.1.judge",
        "e000002.0.judge",
        "e000004.0.samples",
      },
    ),
  ],
)
def test_only_what_no_checkpoint_needs_goes(tmp_path, oldest, step, gone):
  names = {
    "000000.jsonl",
    "000001.jsonl",
    "000000.0.samples",
    "000000.rollout",
    "000001.1.judge",
    "000002.rollout",
    "e000002.0.judge",
    "e000004.0.samples",
    "e000010.0.gold",
    "notes.txt",
  }
  folder = journal.folder_of(tmp_path)
  for name in names:
    (folder / name).write_text("x")
  journal.prune(tmp_path, oldest, step)
  assert {p.name for p in folder.iterdir()} == names - gone
