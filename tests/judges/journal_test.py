"""A judge with a journal: nothing is asked twice, whenever it was killed."""

import collections
import dataclasses
import hashlib
import json

import numpy as np
import pytest

from tests.judges.stand_ins import candidates
from xpo_jax.data.records import Message
from xpo_jax.errors import Exit, XpoError
from xpo_jax.judges import combine, journal, pairwise, rules
from xpo_jax.judges.candidates import Judgement

# 5 prompts, so that the last slice of 2 is shorter.
FIVE = candidates(
  ("a", "bb"), ("ccc", "d"), ("é\ud800", "f\n"), ("gg", "hhh"), ("i", "")
)


def scripted(fail_at=None):
  """A judge of lengths / 3; "d" has no number. Records the slices it saw."""
  seen = []

  def judge(own):
    if len(seen) == fail_at:
      raise KeyboardInterrupt
    seen.append([p for p in own.prompts])
    scores = np.array(
      [[np.nan if t == "d" else len(t) / 3 for t in ts] for ts in own.texts]
    )
    scores = np.where(own.present, scores, np.nan)
    missing = int(np.isnan(scores[own.present]).sum())
    return Judgement(
      scores,
      int(own.present.sum()),
      +collections.Counter(grammar=missing),
      {"judge/first": float(own.prompts[0][1]), "judge/none": np.nan},
    )

  return judge, seen


def same(found, wanted):
  np.testing.assert_array_equal(found.scores, wanted.scores)
  assert found.asked == wanted.asked and found.invalid == wanted.invalid
  assert found.metrics.keys() == wanted.metrics.keys()
  for name, value in found.metrics.items():
    np.testing.assert_equal(value, wanted.metrics[name])


def run(path, cases=FIVE, size=2, judge=None, fail_at=None):
  own, seen = scripted(fail_at)
  return journal.journaled(judge or own, path, size)(cases), seen


def refused(path, cases=FIVE, size=2, match=""):
  """One line, exit 66, and nobody was asked."""
  judge, seen = scripted()
  before = path.read_bytes()
  with pytest.raises(XpoError, match=match) as e:
    journal.journaled(judge, path, size)(cases)
  assert e.value.code == Exit.CHECKPOINT and "\n" not in str(e.value)
  assert not seen and path.read_bytes() == before


def test_slices_are_one_answer(tmp_path):
  path = tmp_path / "new" / "judge.jsonl"
  found, seen = run(path)
  assert seen == [["p0?", "p1?"], ["p2?", "p3?"], ["p4?"]]
  plain, _ = scripted()
  whole = plain(FIVE)
  np.testing.assert_array_equal(found.scores, whole.scores)
  assert np.isnan(found.scores).sum() == 1
  assert found.asked == 10 and found.invalid == {"grammar": 1}
  # Slices begin at prompts 0, 2, 4 with 4, 4 and 2 completions.
  assert found.metrics["judge/first"] == (0 * 4 + 2 * 4 + 4 * 2) / 10
  assert np.isnan(found.metrics["judge/none"])


def test_the_lines(tmp_path):
  path = tmp_path / "j.jsonl"
  run(path)
  rows = [json.loads(line) for line in path.read_text("ascii").splitlines()]
  assert rows[0]["scores"] == [[1 / 3, 2 / 3], [1.0, None]]
  assert rows[0]["asked"] == 4 and rows[0]["invalid"] == {"grammar": 1}
  assert rows[0]["metrics"] == {"judge/first": 0.0, "judge/none": None}
  judged = [["p4?", [["i", True], ["", True]]]]
  wanted = hashlib.sha256(json.dumps(judged).encode()).hexdigest()
  assert rows[2]["sha256"] == wanted and len(rows) == 3


def test_a_second_time_nobody_is_asked(tmp_path):
  path = tmp_path / "j.jsonl"
  first, _ = run(path)
  before = path.read_bytes()
  again, seen = run(path)
  same(again, first)
  assert seen == [] and path.read_bytes() == before


def test_killed_at_any_byte(tmp_path, monkeypatch):
  """What is whole stays, what is torn is asked again; the file is the same."""
  monkeypatch.setattr(journal.os, "fsync", lambda _: None)  # slow
  path, three = tmp_path / "j.jsonl", candidates(*FIVE.texts[:3])
  first, slices = run(path, three)
  whole = path.read_bytes()
  for size in range(len(whole)):
    path.write_bytes(whole[:size])
    again, seen = run(path, three)
    assert seen == slices[whole[:size].count(b"\n") :]
    assert path.read_bytes() == whole
    same(again, first)


def test_an_answer_is_on_the_disk_before_the_next_question(
  tmp_path, monkeypatch
):
  path, synced = tmp_path / "j.jsonl", []
  judge, _ = scripted()

  def watched(own):
    assert sum(synced) == (path.stat().st_size if synced else 0)
    asked.append(len(synced))
    return judge(own)

  def fsync(handle):
    synced.append(path.stat().st_size - sum(synced))

  asked = []
  monkeypatch.setattr(journal.os, "fsync", fsync)
  run(path, judge=watched)
  assert asked == [0, 1, 2] and sum(synced) == path.stat().st_size


def test_killed_between_two_answers(tmp_path):
  path = tmp_path / "j.jsonl"
  with pytest.raises(KeyboardInterrupt):
    run(path, fail_at=1)
  found, seen = run(path)
  assert seen == [["p2?", "p3?"], ["p4?"]] and found.scores.shape == (5, 2)


def changed(**fields):
  return dataclasses.replace(FIVE, **fields)


def swapped(mask, b, k):
  out = mask.copy()
  out[b, k] = not out[b, k]
  return out


@pytest.mark.parametrize(
  "other, line",
  [
    (changed(texts=(("a", "bb!"), *FIVE.texts[1:])), 1),
    (changed(texts=(("bb", "a"), *FIVE.texts[1:])), 1),
    (changed(prompts=(*FIVE.prompts[:3], "p4?", "p4?")), 2),
    (changed(prompts=(*FIVE.prompts[:4], (Message("user", "p4?"),))), 3),
    (changed(present=swapped(FIVE.present, 2, 0)), 2),
    (changed(ended=swapped(FIVE.ended, 4, 1)), 3),
    (candidates(*FIVE.texts[:4]), 3),
    (candidates(*FIVE.texts[:3]), 2),
    (candidates(*FIVE.texts[:2]), 2),
    (candidates(*FIVE.texts, ("j", "k")), 3),
  ],
)
def test_other_candidates(tmp_path, other, line):
  path = tmp_path / "j.jsonl"
  run(path)
  refused(path, other, match=f"j.jsonl:{line}: the verdict on other candidates")


def test_another_size(tmp_path):
  path = tmp_path / "j.jsonl"
  run(path)
  refused(path, size=3, match="j.jsonl:1: .* slices of another size")


def test_absent_texts_do_not_count(tmp_path):
  present = swapped(FIVE.present, 1, 0)
  path = tmp_path / "j.jsonl"
  first, _ = run(path, changed(present=present))
  texts = (FIVE.texts[0], ("other", "d"), *FIVE.texts[2:])
  again, seen = run(path, changed(present=present, texts=texts))
  assert not seen and first.asked == 9
  same(again, first)


@pytest.mark.parametrize(
  "damage",
  [
    lambda row: {**row, "scores": row["scores"][:1]},
    lambda row: {**row, "scores": [[1.0, "x"], [1.0, 2.0]]},
    lambda row: {**row, "scores": [[10**400, 1.0], [1.0, 2.0]]},
    lambda row: {**row, "invalid": [1]},
    lambda row: {**row, "asked": None},
    lambda row: {**row, "more": 1},
    lambda row: {"scores": row["scores"]},
    lambda row: [1, 2],
    lambda row: 7,
  ],
)
def test_damaged_lines(tmp_path, damage):
  path = tmp_path / "j.jsonl"
  run(path)
  first, *rest = path.read_text("ascii").splitlines()
  lines = [json.dumps(damage(json.loads(first))), *rest]
  path.write_text("\n".join(lines) + "\n", "ascii")
  refused(path, match="j.jsonl:1: no line of a judge")


@pytest.mark.parametrize("line", [b"{", b"", b"\xff\xfe", b"\0" * 40])
def test_lines_that_are_no_json(tmp_path, line):
  path = tmp_path / "j.jsonl"
  run(path)
  path.write_bytes(line + b"\n" + path.read_bytes())
  refused(path, match="j.jsonl:1: no line of a judge")


def test_pair_judges(tmp_path):
  """[B, K, K] with NaN, and win rates over the journal."""
  present = np.array([[True, True, True], [True, False, True]])
  cases = candidates(("a", "bb", "ccc"), ("d", "x", "ee"), present=present)

  def ask(questions):
    calls.append(len(questions))
    return [np.log([0.7, 0.3]) for _ in questions]

  calls, path = [], tmp_path / "j.jsonl"
  judge = pairwise.language_model(ask)
  whole = judge(cases)
  found = journal.journaled(judge, path, 1)(cases)
  assert calls == [8, 6, 2]
  same(found, whole)  # position_bias is 1 in both slices
  again = combine.win_rates(journal.journaled(judge, path, 1))(cases)
  assert len(calls) == 3
  np.testing.assert_array_equal(again.scores, combine.mean_wins(whole.scores))
  assert np.isnan(again.scores).tolist() == [[False] * 3, [False, True, False]]


def test_numbers_come_back_to_the_bit(tmp_path):
  noise = np.random.default_rng(0)
  values = noise.normal(size=(5, 2)) * 10.0 ** noise.integers(-300, 300, (5, 2))
  values[0] = [-0.0, 5e-324]
  judge = lambda own: Judgement(
    values[[int(p[1]) for p in own.prompts]], 4, collections.Counter()
  )
  path = tmp_path / "j.jsonl"
  for _ in range(2):
    found, _ = run(path, judge=judge)
    assert found.scores.tobytes() == values.tobytes()


def test_what_is_not_finite_is_no_number(tmp_path):
  """Also the first time: a resumed run must not see other numbers."""
  values = np.array([[np.inf, 1.0], [-np.inf, np.nan]], np.float32)
  judge = lambda own: Judgement(values, 4, collections.Counter())
  for _ in range(2):
    found, _ = run(tmp_path / "j.jsonl", candidates("ab", "cd"), judge=judge)
    np.testing.assert_array_equal(found.scores, [[np.nan, 1], [np.nan] * 2])
    assert found.scores.dtype == np.float64


def test_a_broken_judge_leaves_no_line(tmp_path):
  path = tmp_path / "j.jsonl"
  judge = lambda own: Judgement(np.zeros(3), 3, collections.Counter())
  with pytest.raises(XpoError, match=r"scores \(3,\) of \(2, 2\) candidates"):
    run(path, judge=judge)
  assert not path.exists()


def test_bad_files_and_sizes(tmp_path):
  with pytest.raises(XpoError, match="size=0; want at least one prompt"):
    run(tmp_path / "j.jsonl", size=0)
  with pytest.raises(XpoError, match="directory") as e:
    run(tmp_path)
  assert e.value.code == Exit.STORAGE
  (tmp_path / "file").write_text("x")
  with pytest.raises(XpoError, match="start again") as e:
    run(tmp_path / "file" / "j.jsonl")
  assert e.value.code == Exit.STORAGE


def test_no_prompts(tmp_path):
  none = np.zeros((0, 2), bool)
  cases = dataclasses.replace(
    FIVE, prompts=(), texts=(), present=none, ended=none
  )
  found = journal.journaled(rules.sentiment(), tmp_path / "j.jsonl")(cases)
  assert found.scores.shape == (0, 2) and not list(tmp_path.iterdir())
