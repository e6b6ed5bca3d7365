"""A judge in its journal, as two processes ask it."""

import collections
import json

import numpy as np
import pytest

from tests.hosts_test import Wire
from tests.judges.stand_ins import candidates
from xpo_jax import judge_options, shared_verdicts
from xpo_jax.errors import Exit, XpoError, usage_error
from xpo_jax.judges.candidates import Judgement

FIVE = candidates(("a", "bb"), ("c", "d"), ("e", "f"), ("g", "hh"), ("i", ""))
ALONE = (
  "sentiment length format exact_match final_answer function remote_rating "
  "remote_pair"
).split()


class Judge:
  """Of lengths / 3, a third of the number of the process more."""

  def __init__(self, number=0, fail_at=None):
    self.seen, self.number, self.fail_at = [], number, fail_at

  def __call__(self, own):
    if len(self.seen) == self.fail_at:
      raise usage_error("judge: no more")
    self.seen.append(own.prompts)
    return Judgement(
      np.array([[(len(t) + self.number) / 3 for t in ts] for ts in own.texts]),
      int(own.present.sum()),
      collections.Counter(grammar=1),
      {"judge/first": 0.1},
    )


def test_every_judge_is_of_one_kind():
  assert sorted((*shared_verdicts.ON_MESH, *ALONE)) == sorted(
    judge_options.USES
  )


@pytest.mark.parametrize("name", ["function", "rating"])
def test_two_processes_hear_one_verdict(tmp_path, monkeypatch, name):
  """From nothing, and from a file that already has the first two slices."""
  path, wire = tmp_path / "j.jsonl", Wire(monkeypatch)
  for kept in (0, 2):
    wire.sent.clear()
    if kept:
      lines = path.read_text().splitlines(keepends=True)
      path.write_text("".join(lines[:kept]) + lines[kept][:9])
    found, judges = [], [Judge(0), Judge(5)]
    for number, judge in enumerate(judges):
      ask = shared_verdicts.journaled(name, judge, path, 2)
      found.append(wire.on(number, lambda ask=ask: ask(FIVE)))
      if not number:
        whole = path.read_bytes()
    slices = [FIVE.prompts[:2], FIVE.prompts[2:4], FIVE.prompts[4:]][kept:]
    assert judges[0].seen == slices
    assert judges[1].seen == (slices if name == "rating" else [])
    assert path.read_bytes() == whole and whole.count(b"\n") == 3
    wanted = [[len(t) / 3 for t in own] for own in FIVE.texts]
    for one in found:
      assert one.scores.tolist() == wanted
      assert (one.asked, one.invalid) == (10, {"grammar": 3})
      assert one.metrics == {"judge/first": pytest.approx(0.1)}
    assert found[0].metrics == found[1].metrics


def test_an_error_ends_both_and_leaves_the_slices_before(tmp_path, monkeypatch):
  path, wire = tmp_path / "j.jsonl", Wire(monkeypatch)
  for number in range(2):
    ask = shared_verdicts.journaled(
      "function", Judge(number, fail_at=1), path, 2
    )
    with pytest.raises(XpoError, match="^judge: no more$") as error:
      wire.on(number, lambda ask=ask: ask(FIVE))
    assert error.value.code == Exit.USAGE and error.value.shared
  (row,) = map(json.loads, path.read_text().splitlines())
  assert row["scores"] == [[1 / 3, 2 / 3], [1 / 3, 1 / 3]]


def test_a_file_of_others_ends_both(tmp_path, monkeypatch):
  path, wire = tmp_path / "j.jsonl", Wire(monkeypatch)
  ask = shared_verdicts.journaled("function", Judge(), path, 2)
  wire.on(0, lambda: ask(FIVE))
  wire.sent.clear()
  other = candidates(("x", "y"))
  for number in range(2):
    with pytest.raises(XpoError, match="other candidates") as error:
      wire.on(number, lambda: ask(other))
    assert error.value.code == Exit.CHECKPOINT
