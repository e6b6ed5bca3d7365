"""J15: answers that say nothing, wherever a language model judges.

They have no score, are chosen by no selection, and win no evaluation.
"""

from ml_collections import ConfigDict
import numpy as np
import pytest

from tests import runs
from tests.judges.stand_ins import shown
from tests.online import loop_test, samples
from tests.stages import selection_test
from xpo_jax import evaluation_judging, judge_config, judge_options
from xpo_jax.evaluation_judging import Written
from xpo_jax.judges import function, nulls, pairwise
from xpo_jax.judges.tally import Tally
from xpo_jax.online import groups
from xpo_jax.online import verdicts as online
from xpo_jax.stages import selection, verdicts

NAN = np.nan
ASKED = {
  "reward_model",
  "implicit",
  "preference_model",
  "pairwise",
  "rating",
  "principles",
  "additive",
  "verdict_rating",
  "verdict_pair",
  "remote_rating",
  "remote_pair",
}


@pytest.mark.parametrize("name", judge_options.USES)
def test_judges_that_are_models_are_guarded(name, monkeypatch):
  monkeypatch.setenv(judge_options.URL, "http://127.0.0.1:1/v1")
  monkeypatch.setitem(judge_config._BUILDERS, name, lambda given: "made")
  source = {"length": "1-2", "sentiment": "", "function": "tests.runs:pair"}
  section = {"name": name, "source": source.get(name, "x")}
  built = judge_config.build(section, "judge")
  assert built.guard == (name in ASKED)
  guarded = judge_config.guarded(built, len)
  assert (guarded is not len) == (name in ASKED)
  if name in ASKED:
    short = judge_config.build(section | {"guard": False}, "judge")
    assert not short.guard and judge_config.guarded(short, len) is len


def lengths(asked):
  """A judge that is won over by whatever says nothing, and what it saw."""

  def judge(prompts, texts):
    asked.extend(texts)
    return [99.0 if nulls.says_nothing(t) else float(len(t)) for t in texts]

  return function.from_function(judge)


def longer(questions):
  """A language model that finds the longer answer better, and ":" best."""
  out = []
  for question, _ in questions:
    told = shown(question)
    one, two = (told[k] for k in sorted(told) if k != "Request")
    size = lambda t: 99 if nulls.says_nothing(t) else len(t)
    p = 1 / (1 + np.exp(float(size(two) - size(one))))
    out.append(np.log([p, 1 - p]))
  return out


def built(kind, asked=None, guard=True):
  if kind == "pairs":
    judge = pairwise.language_model(longer)
    return judge_config.Built(None, judge, "pairwise", 0.1, guard)
  return judge_config.Built(
    lengths([] if asked is None else asked), None, "rating", 0.1, guard
  )


def test_the_guard_sees_all_prompts_not_the_journals_slices(tmp_path):
  """A text under 9 of the first 16 prompts of 40 is no text for all."""
  texts = [("Yes." if b < 9 else f"own {b}", "more") for b in range(40)]
  texts = [(own, "Always." if b < 21 else f"m{b}")
           for b, (own, _) in enumerate(texts)]  # fmt: skip
  asked = []
  found = online.score(
    built("texts", asked), [f"p{b}" for b in range(40)], texts,
    np.ones((40, 2), bool), Tally(), tmp_path / "j",
  )  # fmt: skip
  wanted = [[len(a), NAN if b < 21 else len(c)]
            for b, (a, c) in enumerate(texts)]  # fmt: skip
  np.testing.assert_array_equal(found.scores, wanted)
  assert "Yes." in asked and "Always." not in asked
  assert found.metrics["judge/flagged"] == 21 / 80
  assert len((tmp_path / "j").read_text().splitlines()) == 3
  count = len(asked)
  again = online.score(
    built("texts", asked), [f"p{b}" for b in range(40)], texts,
    np.ones((40, 2), bool), Tally(), tmp_path / "j",
  )  # fmt: skip
  assert len(asked) == count and again.metrics == found.metrics


def test_win_rates_without_those_that_say_nothing():
  """Among the rest only: "bb" against "a" and itself."""
  found = online.score(
    built("pairs"), ["p", "q"], [("bb", ":", "a"), (":", "...", "a")],
    np.ones((2, 3), bool), Tally(),
  )  # fmt: skip
  p = 1 / (1 + np.exp(-1.0))
  wanted = [[(0.5 + p) / 2, NAN, (1.5 - p) / 2], [NAN] * 3]
  np.testing.assert_allclose(found.scores, wanted)


def test_one_sample_alone_has_no_win_rate_by_default():
  found = online.score(
    built("pairs"), ["p", "q"], [(":",), ("a",)], np.ones((2, 1), bool), Tally()
  )
  np.testing.assert_array_equal(found.scores, [[NAN], [0.5]])


@pytest.mark.parametrize("kind", ["pairs", "texts"])
def test_against_an_opponent(kind):
  ended = np.ones((1, 3), bool)
  found = online.against(
    built(kind), ["p"], [("bb", ":", "a")], [("a", "a", "...")], ended, ended,
    Tally(),
  )  # fmt: skip
  p = 1 / (1 + np.exp(-1.0))
  np.testing.assert_allclose(found.scores, [[p, NAN, NAN]])
  made = groups.against(samples.prompts(1), samples.drawn(1, 3), found.scores)
  assert [len(c) > 0 for c in made[0].completions] == [True, False, False]


def test_a_rollout_that_says_nothing_leaves_no_group():
  """Nobody is asked, nothing is invalid, and every prompt's place is empty."""
  asked = []
  found = online.score(
    built("texts", asked), ["p", "q"], [(":", "."), ("-", ":")],
    np.ones((2, 2), bool), Tally(),
  )  # fmt: skip
  assert asked == [] and found.tally == Tally()
  assert np.isnan(found.scores).all() and found.metrics["judge/flagged"] == 1
  prompts, drawn = samples.prompts(2), samples.drawn(2, 2)
  texts = [["a", "b"]] * 2
  assert groups.keep_all(prompts, drawn, found.scores) == [None, None]
  assert groups.best_worst(prompts, drawn, found.scores, texts) == [None, None]


TEXTS = [(":", "ccc", "a", "bb"), ("a", ":", "bb", "ccc")]
KINDS = [name for name, kind in selection.KINDS.items() if kind.judge]


@pytest.mark.parametrize("kind", ["pairs", "texts"])
@pytest.mark.parametrize("name", KINDS)
def test_no_selection_takes_it(name, kind, tmp_path, monkeypatch):
  """The judge itself would have it win over everything."""
  seeds, made = [], built(kind)
  monkeypatch.setattr(
    judge_config, "build", lambda _, where, seed: seeds.append(seed) or made
  )
  settings = ConfigDict(
    {"select": name, "judge": {}, "length_penalty": 0.0, "accept": 3,
     "select_beta": 0.0, "seed": 5}
  )  # fmt: skip
  judged, games, numbers = verdicts.judge(
    settings, selection_test.judged(TEXTS), tmp_path, "stage"
  )
  assert numbers["judge/flagged"] == 2 / 8 and seeds == [5]
  assert np.isnan(judged.scores[[0, 1], [0, 1]]).all()
  found = selection.choose(name, games, 0.1, seed=0)
  rows = [row for own in found.rows for row in own]
  told = repr(rows)
  assert "':'" not in told
  if kind == "pairs" and name.startswith("rejection"):
    # The first that says something is the base: "ccc", then "a".
    r = {"ccc": [0, -2, -1], "a": [0, 1, 2]}
    np.testing.assert_allclose(judged.scores[0, 1:], r["ccc"], rtol=1e-9)
    np.testing.assert_allclose(judged.scores[1, [0, 2, 3]], r["a"], rtol=1e-9)
  if name == "soft_pairs":  # of the first two
    assert rows == [] and found.dropped == {"no_score": 2}
  else:
    assert all(found.rows)
  if name in ("best_worst", "best_of_n"):
    better = [row.get("chosen", row.get("completion")) for row in rows]
    assert better == ["ccc", "ccc"]
  if name == "tournament":  # "ccc" meets all, nobody went on by default
    own = [(r["chosen"], r["rejected"]) for r in found.rows[0]]
    assert own == [("ccc", "a"), ("ccc", "bb")]


def test_it_wins_no_game_by_default():
  """ ":" stood first in its bracket: the real answer goes on in its place."""
  wins = np.full((1, 4, 4), NAN)
  for i, j, p in ((1, 2, 0.8), (1, 3, 0.9), (2, 3, 0.6)):
    wins[0, i, j], wins[0, j, i] = p, 1 - p
  own = selection_test.judged([(":", "x", "y", "z")], wins=wins)
  found = selection.choose("tournament", own)
  games = [(r["chosen"], r["rejected"]) for r in found.rows[0]]
  assert games == [("x", "y"), ("x", "z")]
  found = selection.choose("rejection_first_round", own, seed=1)
  assert len(found.rows[0]) == 1  # one of three has nobody to meet


def written(*texts):
  return Written(texts, [True] * len(texts), [f"p{i}" for i in texts])


@pytest.mark.parametrize("kind", ["pairs", "texts"])
def test_it_loses_an_evaluation(kind, tmp_path, monkeypatch):
  """Lost, won, no verdict, and "bbb" over "bb"."""
  monkeypatch.setattr(judge_config, "build", lambda *_: built(kind))
  table, found = evaluation_judging.versus(
    {"name": "rating"}, "judge", list("pqrs"), written(":", "a", ":", "bbb"),
    written("b", "...", "", "bb"), ("new", "old"), tmp_path / "j",
  )  # fmt: skip
  assert found["win rate"] == pytest.approx(2 / 3)
  assert (found["no verdict"], found["judge/flagged"]) == (1, 4 / 8)
  assert ["judge/flagged", "0.500"] in table["rows"]


def test_without_a_guard_the_judge_decides(tmp_path, monkeypatch):
  free = built("texts", guard=False)
  monkeypatch.setattr(judge_config, "build", lambda *_: free)
  _, found = evaluation_judging.versus(
    {"name": "rating"}, "judge", ["p"], written(":"), written("a"),
    ("new", "old"), tmp_path / "j",
  )  # fmt: skip
  assert found["win rate"] == 1 and "judge/flagged" not in found


def test_harmless_without_it(tmp_path, monkeypatch):
  monkeypatch.setattr(judge_config, "build", lambda *_: built("texts"))
  found = evaluation_judging.harmless(
    {"name": "rating"}, "harmless", ["p"], written(":", "ab", "a"), 1.5,
    tmp_path / "h",
  )  # fmt: skip
  np.testing.assert_array_equal(found, [NAN, 1, 0])


@pytest.mark.slow
def test_a_run_whose_policy_says_nothing(tmp_path, monkeypatch, capfd):
  """It goes on, with a warning a rollout; nothing is learned or asked."""
  monkeypatch.setenv("XPO_CACHE", str(tmp_path / "cache"))
  asked = []
  monkeypatch.setattr(judge_config, "build", lambda *_: built("texts", asked))
  silent = lambda drawn, *_: [[":"] * drawn.ended.shape[1]] * len(drawn.ended)
  monkeypatch.setattr(online, "texts_of", silent)
  changes = {"train__steps": 2, "judge__name": "sentiment", "judge__source": ""}
  run, summary = loop_test.start(tmp_path, **changes)
  steps = [line for line in runs.lines(run) if "loss" in line]
  assert [line["step"] for line in steps] == [1, 2] and asked == []
  for line in steps:
    assert line["judge/flagged"] == 1 and line["optimizer/skipped"] == 0
    for name in ("judge/scored", "prompts/used", "judge/invalid", "loss",
                 "optimizer/gradient_norm"):  # fmt: skip
      assert line[name] == 0
  assert np.isnan(summary["held_out"]["reward"])
  assert summary["held_out"]["scored"] == 0
  told = capfd.readouterr().out
  assert told.count("has nothing to learn from") == 2
  assert "rollout 1 has nothing" in told and "100% say nothing" in told
