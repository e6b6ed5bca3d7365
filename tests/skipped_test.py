"""What a step that changed nothing says, and when a run ends over it."""

from ml_collections import ConfigDict
import pytest

from xpo_jax import skipped, train
from xpo_jax.errors import XpoError
from xpo_jax.online import loop

CONFIG = ConfigDict({"optimizer": {"max_skipped": 3, "learning_rate": 0.5}})
ROWS = [f"r{n}" for n in range(10)]


def test_a_step_that_counts_says_nothing(capsys):
  asked = lambda: pytest.fail("the rows of a good step were asked for")
  skipped.check(CONFIG, 4, {}, asked)
  skipped.check(CONFIG, 4, {"optimizer/skipped": 0.0}, asked)
  assert capsys.readouterr().out == ""


def test_a_skipped_step_names_eight_rows(capsys):
  skipped.check(CONFIG, 4, {"optimizer/skipped": 2.0}, lambda: ROWS)
  skipped.check(CONFIG, 5, {"optimizer/skipped": 1.0}, lambda: ROWS[:2])
  first, second = capsys.readouterr().out.splitlines()
  assert first.startswith("warning: step 4 changed nothing")
  assert first.endswith("look at rows " + ", ".join(ROWS[:8]) + " and 2 more")
  assert second.endswith("look at rows r0, r1")


def test_the_limit_ends_the_run(capsys):
  with pytest.raises(XpoError, match="3 steps in a row") as error:
    skipped.check(CONFIG, 6, {"optimizer/skipped": 3.0}, lambda: ROWS[:1])
  assert error.value.code == 70 and "learning_rate=0.5" in str(error.value)
  assert "step 6" in capsys.readouterr().out  # the last rows are named too


def test_both_loops_ask_here():
  assert train.skipped is loop.skipped is skipped
