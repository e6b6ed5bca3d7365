"""Parts of the loop that a whole run would not show to be missing."""

import json
import types

import jax
import numpy as np
import pytest

from tests import runs
from xpo_jax import config, judge_config, train
from xpo_jax.errors import Exit, XpoError
from xpo_jax.judges import combine, function
from xpo_jax.online import loop, rollout


def test_the_average_keeps_what_the_decay_says():
  """.9 of itself and .1 of the policy, in every leaf."""
  average = loop._make_average(0.9)
  ema = average({"a": np.float32([1, 2])}, {"a": np.float32([2, -3])})
  np.testing.assert_allclose(ema["a"], [1.1, 1.5], rtol=1e-6)


def collected(monkeypatch, folder, ratio, ahead=0):
  """A rollout whose sampler and trainer are `ratio` apart."""
  c = config.base("tiny").unlock()
  c.rollout.show_every, c.rollout.ahead = 0, ahead
  made = rollout.Rollout([], {"sampler/ratio": ratio}, None, None)
  monkeypatch.setattr(rollout, "make", lambda *_: (made, "tally"))
  monkeypatch.setattr(loop, "_draw_ahead", lambda *_: None)
  monkeypatch.setattr(loop.sealed, "write", lambda *_: "note")
  model = types.SimpleNamespace(dtype="float32")
  job = types.SimpleNamespace(
    config=c,
    train=types.SimpleNamespace(groups=[]),
    objective=types.SimpleNamespace(model=model),
  )
  return loop._collect(types.SimpleNamespace(job=job), None, 0, None, folder)


def test_a_sampler_that_drew_something_else_ends_the_run(
  monkeypatch, tmp_path, capsys
):
  with pytest.raises(XpoError, match="sampler/ratio=1.0600 exceeds 1.05") as e:
    collected(monkeypatch, tmp_path, 1.06)
  assert e.value.code == Exit.NUMERIC
  collected(monkeypatch, tmp_path, 1.03)
  assert "warning: sampler/ratio=1.0300" in capsys.readouterr().out
  _, _, values, note, tally = collected(monkeypatch, tmp_path, 1.01)
  assert (values, note, tally) == ({"sampler/ratio": 1.01}, "note", "tally")
  # Samples that were drawn ahead are an earlier policy's.
  collected(monkeypatch, tmp_path, 1.5, ahead=1)
  assert capsys.readouterr().out == ""


def lengths(prompts, texts):
  return [len(t) / 10 for t in texts]


@pytest.mark.slow
def test_a_pair_judge_is_watched_against_the_reference(tmp_path, monkeypatch):
  """Among a prompt's samples its mean is 1/2, so that no curve is of it."""
  longer = combine.bradley_terry(function.from_function(lengths))
  built = judge_config.Built(None, longer, "pairwise", 0.1)
  monkeypatch.setattr(judge_config, "build", lambda *_: built)
  monkeypatch.setenv("XPO_CACHE", str(tmp_path / "cache"))
  made = runs.make(
    tmp_path,
    "dpo",
    rollout__completions=4,
    rollout__select="best_worst",
    data__max_prompt_length=32,
    data__max_completion_length=12,
    batch__row_length=128,
    judge__name="pairwise",
    judge__source="run",
    train__eval_every=2,
    train__steps=2,
  )
  run = tmp_path / "run"
  summary = train.run(made, run, jax.devices()[:1])
  steps = [line for line in runs.lines(run) if "loss" in line]
  assert all("rewards/judge" not in x and "judge/equal" in x for x in steps)
  files = sorted((run / "rollouts").glob("e000002.*.judge"))
  lines = [x for path in files for x in path.read_text().splitlines()]
  wins = [own[0][1] for x in lines for own in json.loads(x)["scores"]]
  assert len(wins) == 10 * 4 and len(set(wins)) > 3
  assert summary["held_out"]["reward"] == pytest.approx(np.mean(wins))
