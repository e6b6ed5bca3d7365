import json
import math

from xpo_jax import report_samples


def write(run, number, rows, name=None):
  """A rollout's file of (prompt, completions, scores)."""
  folder = run / "rollouts"
  folder.mkdir(exist_ok=True)
  keys = ("prompt", "completions", "scores")
  lines = [json.dumps(dict(zip(keys, row)) | {"ended": []}) for row in rows]
  path = folder / (name or f"{number:06d}.jsonl")
  path.write_text("\n".join(lines) + "\n")


def test_a_prompt_is_shown_at_its_first_and_last_time(tmp_path):
  write(tmp_path, 0, [("a", ["a0", "x", "y", "z"], [1, 2, None, 3])])
  write(tmp_path, 1, [("b", ["b1"], [-2.0]), ("a", ["no"], [9])])
  write(tmp_path, 2, [("a", ["no"], [9]), ("c", ["no"], [99])])
  write(tmp_path, 12, [("b", ["no"], [9])])
  write(tmp_path, 13, [("b", ["b13"], [4.0])])
  write(tmp_path, 14, [("a", ["a14"], [5])])
  write(tmp_path, 15, [], name="000015.judge.jsonl")
  first, second = report_samples.before_and_after(tmp_path)
  assert first["prompt"] == "a" and second["prompt"] == "b"
  assert first["texts"] == {
    "before, rollout 0": ["a0", "x", "y"],
    "after, rollout 14": ["a14"],
  }
  assert [*second["texts"].values()] == [["b1"], ["b13"]]
  scores = first["scores"]["before, rollout 0"]
  assert [s["score"] for s in scores[:2]] == [1, 2]
  assert math.isnan(scores[2]["score"])
  assert first["range"] == second["range"] == (-2.0, 5.0)


def test_twelve_prompts_are_enough(tmp_path):
  rows = lambda mark: [(str(n), [f"{mark}{n}"], [n]) for n in range(20)]
  write(tmp_path, 0, rows("old"))
  write(tmp_path, 1, rows("new"))
  found = report_samples.before_and_after(tmp_path)
  assert [s["prompt"] for s in found] == [str(n) for n in range(12)]


def test_damaged_lines_are_left_out(tmp_path):
  write(tmp_path, 0, [("a", ["old"], [1]), ("b", ["x", "y"], [1])])
  write(tmp_path, 1, [("a", ["new"], [2]), ("b", ["z"], [3])])
  path = tmp_path / "rollouts" / "000001.jsonl"
  path.write_text(path.read_text() + '{"prompt": "a", "comp')
  (found,) = report_samples.before_and_after(tmp_path)
  assert [*found["texts"].values()] == [["old"], ["new"]]


def test_the_last_rollout_alone_if_no_prompt_came_twice(tmp_path):
  write(tmp_path, 0, [("a", ["a0"], [1])])
  write(tmp_path, 1, [("b", ["b1"], [None])])
  (found,) = report_samples.before_and_after(tmp_path)
  assert found["prompt"] == "b" and found["texts"] == {"rollout 1": ["b1"]}
  assert found["range"] == (0.0, 0.0)
  # An evaluation's before and after say more.
  stored = [{"prompt": "e", "texts": {}, "scores": {}}] * 20
  (tmp_path / "evaluation.json").write_text(json.dumps({"samples": stored}))
  assert report_samples.before_and_after(tmp_path) == stored[:12]


def test_a_run_without_samples(tmp_path):
  assert report_samples.before_and_after(tmp_path) == []
