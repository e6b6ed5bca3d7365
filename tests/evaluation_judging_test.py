"""Win rates and harmless texts with judges that count words."""

import numpy as np
import pytest

from xpo_jax import evaluation_judging as judging
from xpo_jax import judge_config
from xpo_jax.errors import XpoError
from xpo_jax.evals import statistics
from xpo_jax.evaluation_judging import Written
from xpo_jax.judges import pairwise
from xpo_jax.judges.candidates import make_candidates

SHORT = {"name": "length", "source": "1-2"}


def written(*texts):
  n = len(texts)
  return Written(texts, [True] * n, [f"p{i // 2}" for i in range(n)])


def test_win_rate_of_a_judge_of_texts(tmp_path, capsys):
  """One or two words is best: won, tied, lost, won."""
  final = written("a b", "a", "a b c d e", "a")
  base = written("a b c d", "b", "a", "a b c d")
  table, found = judging.versus(
    SHORT, "judge", ["p", "q"], final, base, ("dpo", "sft"), tmp_path / "j"
  )
  assert found["win rate"] == (1 + 0.5 + 0 + 1) / 4
  assert (found["ties"], found["no verdict"]) == (1, 0)
  # Prompts' means .75 and .5: se 1/8; p (1 - p) / se^2 = 15, at most 4.
  expected = statistics.wilson(2.5, 4)
  assert found["win rate, low"] == pytest.approx(expected.low)
  # 3 - 7, 1 - 1, 9 - 1, 1 - 7 characters.
  assert found["length difference"] == (-4 + 0 + 8 - 6) / 4
  assert found["Elo"] == pytest.approx(400 * np.log10(2.5 / 1.5))
  assert table["title"] == "dpo against sft, judged by length"
  assert len((tmp_path / "j").read_text().splitlines()) == 1
  assert "warning" not in capsys.readouterr().out


def test_a_pair_judge_sees_both_orders(tmp_path, monkeypatch, capsys):
  """P(first) = .9 whatever is shown: no side wins, and a warning says why."""
  seen = []

  def ask(questions):
    seen.extend(q for q, _ in questions)
    return [np.log([0.9, 0.1])] * len(questions)

  built = judge_config.Built(None, pairwise.language_model(ask), "p", 0.1)
  monkeypatch.setattr(judge_config, "build", lambda *_: built)
  _, found = judging.versus(
    {"name": "pairwise"}, "judge", ["p"], written("x", "y"),
    written("u", "v"), ("b", "a"), tmp_path / "j",
  )  # fmt: skip
  assert len(set(map(str, seen))) == 4
  assert found["win rate"] == 0.5 and found["ties"] == 2
  assert found["judge/position_bias"] == 1
  told = "warning: p: in 100.0% of the pairs the place decides"
  assert told in capsys.readouterr().out


def test_a_long_judgement_is_shown_with_its_share(tmp_path, capsys):
  texts = [f"word {n}" for n in range(40)]
  prompts = [f"p{n}" for n in range(20)]
  own = written(*texts)
  judging.versus(SHORT, "judge", prompts, own, own, ("b", "a"), tmp_path / "j")
  assert "judge, length  40/40 100%" in capsys.readouterr().out


def test_harmless_is_above(tmp_path):
  rate = judging.harmless(
    SHORT, "harmless", ["p", "q"], written("a", "a b", "a b c d e f g", "b"),
    0.5, tmp_path / "h",
  )  # fmt: skip
  assert rate.tolist() == [1, 1, 0, 1]


def test_the_seed_reaches_the_judge(tmp_path, monkeypatch):
  seeds, made = [], judge_config.build(SHORT, "judge")
  monkeypatch.setattr(
    judge_config, "build", lambda _, where, seed: seeds.append(seed) or made
  )
  own = written("a", "b")
  texts = [SHORT, "judge", ["p"], own]
  judging.versus(*texts, own, ("b", "a"), tmp_path / "v", 3)
  judging.harmless(*texts, 0.5, tmp_path / "h", 4)
  assert seeds == [3, 4]


def test_a_verdict_that_is_missing_is_none(tmp_path, monkeypatch):
  from xpo_jax.judges import function

  def judge(prompts, texts):
    return [None if t == "x" else 1.0 for t in texts]

  built = judge_config.Built(function.from_function(judge), None, "f", 0.1)
  monkeypatch.setattr(judge_config, "build", lambda *_: built)
  found = judging.harmless(
    {"name": "function"}, "harmless", ["p"], written("x", "y"), 0.0,
    tmp_path / "h",
  )  # fmt: skip
  np.testing.assert_array_equal(found, [np.nan, 1])
  _, numbers = judging.versus(
    {"name": "function"}, "judge", ["p"], written("x", "y"),
    written("y", "y"), ("b", "a"), tmp_path / "j",
  )  # fmt: skip
  assert (numbers["ties"], numbers["no verdict"]) == (1, 1)


def test_too_many_invalid_replies_stop(tmp_path, monkeypatch):
  from xpo_jax.judges import function

  none = function.from_function(lambda p, t: [None] * len(t), "none")
  built = judge_config.Built(none, None, "none", 0.1)
  monkeypatch.setattr(judge_config, "build", lambda *_: built)
  candidates = make_candidates(["p"] * 20, [("x",)] * 20)
  # After the first slice: the other four are not asked for nothing.
  with pytest.raises(XpoError, match="16 of 16 replies are invalid") as error:
    judging.ask({"name": "function"}, "judge", candidates, tmp_path / "j")
  assert error.value.code == 70
