import io
import json
import math

import pytest
from rich.console import Console

from xpo_jax import rollout_view

ROWS = [
  {
    "prompt": f"prompt {n}",
    "completions": ["one two three", "four"],
    "scores": [n + 0.5, None],
    "ended": [True, n == 0],
  }
  for n in range(2)
]


def console(width=100, terminal=False):
  return Console(
    file=io.StringIO(), width=width, force_terminal=terminal, color_system=None
  )


def lines_of(shown):
  return [line.rstrip() for line in shown.file.getvalue().splitlines()]


def test_best_and_worst_in_a_log():
  out = console()
  texts = ["fine", "dull film\nindeed", "the best of all", "not scored"]
  rollout_view.show(7, "Write:", texts, [0.5, -0.25, 1.25, None], console=out)
  # (0.5 - 0.25 + 1.25) / 3 = 0.5
  assert lines_of(out) == [
    "rollout 7  mean score +0.500 (-0.250 to +1.250)  1 unscorable",
    "  prompt                   Write:",
    "  best    +1.250   4 words the best of all",
    "  worst   -0.250   3 words dull film indeed",
  ]


def test_texts_cannot_drive_the_terminal_and_are_cut():
  out = console(width=60)
  attack = "\x1b[2J[red]x[/red]\r\x07 " + "long " * 100
  rollout_view.show(1, attack, [attack, "b"], [1.0, 0.0], console=out)
  text = out.file.getvalue()
  assert "[red]x[/red]" in text
  assert not any(c in text for c in "\x1b\r\x07")
  lines = lines_of(out)
  assert len(lines) == 4 and max(map(len, lines[1:])) <= 60
  assert lines[1].endswith("...") and lines[2].endswith("...")


def test_a_terminal_shows_three_lines_of_a_text():
  out = console(width=80, terminal=True)
  rollout_view.show(1, "p", ["wide 宽宽宽 " * 60, "b"], [1.0, 0.0], console=out)
  lines = lines_of(out)
  (best,) = [n for n, line in enumerate(lines) if "best" in line]
  (worst,) = [n for n, line in enumerate(lines) if "worst" in line]
  # Cutting by columns; breaking at words may add a line.
  assert 3 <= worst - best <= 4
  assert lines[worst - 1].endswith("...")


@pytest.mark.parametrize("scores", [[0.5, 0.5], [None, math.nan]])
def test_scores_that_tell_nothing_apart_show_one_sample(scores):
  out = console()
  rollout_view.show(1, "p", ["first", "second"], scores, console=out)
  lines = lines_of(out)
  assert len(lines) == 3 and lines[2].split()[0] == "sample"
  assert lines[2].endswith("first")
  assert ("no scores" in lines[0]) == (scores[0] is None)
  assert ("n/a" in lines[2]) == (scores[0] is None)


def test_every_second_rollout_shows_another_prompt():
  shown = []
  for number in range(6):
    out = console()
    if rollout_view.view(number, ROWS, 2, console=out):
      shown.append((number, lines_of(out)[1].split()[-1]))
    else:
      assert out.file.getvalue() == ""
  assert shown == [(0, "0"), (2, "1"), (4, "0")]
  assert not rollout_view.view(0, ROWS, 0, console=console())
  assert not rollout_view.view(0, [], 1, console=console())


def test_a_file_is_read_only_in_its_turn(tmp_path):
  path = tmp_path / "000004.jsonl"
  assert not rollout_view.view_file(3, path, 2)  # not there yet
  path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
  out, same = console(), console()
  assert rollout_view.view_file(4, path, 2, console=out)
  rollout_view.view(4, ROWS, 2, console=same)
  assert out.file.getvalue() == same.file.getvalue() != ""


def test_the_head_tells_of_the_whole_rollout():
  # Scores .5 and 1.5; 3, 1, 3, 1 words; three of four ended.
  assert rollout_view.summary(ROWS) == (
    "mean score +1.000 (+0.500 to +1.500)  2 unscorable  2 words  75% ended"
  )
