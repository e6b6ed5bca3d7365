import io

import pytest
from rich.console import Console

from xpo_jax import progress


class Clock:
  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


def log_console():
  return Console(file=io.StringIO(), width=100, highlight=False)


def text_of(console):
  return console.file.getvalue()


def test_log_lines_come_every_ten_seconds_with_eta():
  console, clock = log_console(), Clock()
  fields = {"loss": ".2f", "rewards/margin": "+.1f"}
  with progress.track(10, "DPO", fields, console=console, clock=clock) as task:
    for step in range(10):
      clock.now += 4.0
      task.advance({"loss": 0.5, "rewards/margin": step / 10, "other": 9})
  # Steps end at 4, 8, 12 ... 40 s: lines at 12, 24, 36 s, then the last one.
  assert text_of(console).splitlines() == [
    "DPO  3/10 30%  loss 0.50  margin +0.2  0:12 elapsed  ETA 0:28",
    "DPO  6/10 60%  loss 0.50  margin +0.5  0:24 elapsed  ETA 0:16",
    "DPO  9/10 90%  loss 0.50  margin +0.8  0:36 elapsed  ETA 0:04",
    "DPO  10/10 100%  loss 0.50  margin +0.9  0:40 elapsed  done",
  ]


def test_iterating_advances_and_a_short_loop_prints_one_line():
  console, clock = log_console(), Clock()
  with progress.track(["a", "b"], "read", console=console, clock=clock) as task:
    assert list(task) == ["a", "b"]
  assert text_of(console) == "read  2/2 100%  0:00 elapsed  done\n"


def test_a_resumed_loop_counts_what_was_done_before():
  console, clock = log_console(), Clock()
  with progress.track(5, "x", initial=3, console=console, clock=clock) as task:
    assert list(task) == [3, 4]
  assert text_of(console) == "x  5/5 100%  0:00 elapsed  done\n"


def test_an_unknown_length_is_counted_without_eta():
  console, clock = log_console(), Clock()
  work = (n for n in range(2))
  with progress.track(work, "x", console=console, clock=clock) as task:
    for _ in task:
      clock.now += 30
  assert text_of(console).splitlines() == [
    "x  1  0:30 elapsed  ETA -:--",
    "x  2  1:00 elapsed  ETA -:--",
    "x  2  1:00 elapsed  done",
  ]


def test_an_error_passes_and_says_where_it_stopped():
  console, clock = log_console(), Clock()
  with pytest.raises(KeyError):
    with progress.track(4, "x", console=console, clock=clock) as task:
      task.advance()
      raise KeyError("boom")
  assert text_of(console) == "x  1/4 25%  0:00 elapsed  stopped\n"


def test_eta_leaves_the_compiling_first_item_out():
  assert progress.remaining([(0, 0)], 10) is None
  assert progress.remaining([(0, 0), (60, 1)], 10) == 60 * 9
  # From the end of item 1 at 60 s: items 2 and 3 took 2 s each.
  assert progress.remaining([(0, 0), (60, 1), (64, 3)], 10) == 2 * 7
  assert progress.remaining([(0, 0), (60, 1), (64, 3)], None) is None


@pytest.mark.parametrize(
  "seconds, text",
  [(None, "-:--"), (0.4, "0:00"), (75, "1:15"), (3700, "1:01:40")],
)
def test_clock_text(seconds, text):
  assert progress.clock_text(seconds) == text


class Terminal(io.StringIO):
  encoding = "utf-8"

  def isatty(self):
    return True


def test_a_terminal_gets_a_bar_with_the_numbers():
  console = Console(
    file=Terminal(), width=120, force_terminal=True, force_interactive=True
  )
  fields = {"rewards/margin": "+.2f"}
  with progress.track(2, "DPO [b]", fields, console=console) as task:
    for _ in task:
      task.update({"rewards/margin": 0.25})
  shown = text_of(console)
  assert "DPO [b]" in shown and "2/2" in shown
  assert "margin +0.25" in shown and "ETA 0:00" in shown


def test_table_shows_markup_and_escapes_as_text():
  console = log_console()
  rows = [["[red]x[/red]", "a\x1b[2Jb"]]
  progress.print_table("t", ["measure", "SFT"], rows, console=console)
  shown = text_of(console)
  assert "[red]x[/red]" in shown
  assert "\x1b" not in shown and "a [2Jb" in shown


def test_checks_show_ticks_and_crosses():
  console = log_console()
  rows = [("loss", 0.6931471805, 0.69314718, True), ("BOS", 2, 1, False)]
  progress.print_checks(rows, console=console)
  good, bad = (
    next(line for line in text_of(console).splitlines() if name in line)
    for name in ("loss", "BOS")
  )
  assert "✓" in good and "0.693147" in good
  assert "✗" in bad and "✓" not in bad


def test_checks_in_an_ascii_log_still_print():
  file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
  console = Console(file=file, width=80)
  progress.print_checks([("naïve", 1, 1, True)], console=console)
  file.flush()
  shown = file.buffer.getvalue().decode("ascii")
  assert "ok" in shown and "na?ve" in shown
