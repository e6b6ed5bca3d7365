"""Bad input of an on-policy run: one line each, before anything expensive."""

import json
import types

import numpy as np
import pytest

from tests import runs
from tests.online import samples, settings_test
from xpo_jax import judge_config, parallel, placement, token_rewards
from xpo_jax.errors import Exit, XpoError
from xpo_jax.judges.tally import Tally
from xpo_jax.online import groups, verdicts


@pytest.fixture
def refused(xpo, tmp_path, monkeypatch):
  """Runs `xpo train` on a config that must fail; returns (code, line)."""
  monkeypatch.setattr(parallel, "start", lambda cache: None)

  def load_policy(*_):
    raise AssertionError("weights were loaded before the config was checked")

  def run(method="rloo", may_load=False, **changes):
    if not may_load:
      monkeypatch.setattr(placement, "load_policy", load_policy)
    config = runs.make(tmp_path, method, **settings_test.BASE | changes)
    path = runs.save(config, tmp_path / "config.json")
    code, _, err = xpo(
      "train", f"--config={path}", f"--workdir={tmp_path / 'run'}"
    )
    assert len(err) == 1 and not (tmp_path / "run" / "checkpoints").exists()
    return code, err[0]

  return run


@pytest.mark.parametrize(
  "method, changes, words",
  [
    ("rloo", {"judge__name": "", "judge__source": ""}, "judge.name is empty"),
    ("rloo", {"judge__name": "lenght"}, "did you mean"),
    ("rloo", {"rollout__temperature": -1.0}, "rollout.temperature=-1.0"),
    ("rloo", {"rollout__opponent": "emma"}, "did you mean 'ema'"),
    ("rloo", {"rollout__kl_budget": 2.0, "train__eval_every": 0}, "eval_every"),
    ("rloo", {"rollout__completions": 0}, "learns from samples of the policy"),
    ("dpo", {"rollout__completions": 0, "rollout__epochs": 2}, "fixed data"),
    (
      "rloo",
      {"judge__name": "function", "judge__source": "nowhere"},
      "module:function",
    ),
    ("rloo", {"judge__source": "four"}, "LOW-HIGH"),
    ("rloo", {"rollout__epochs": 4}, "ends inside of a rollout of 4 steps"),
  ],
)
def test_a_config_without_meaning(refused, method, changes, words):
  code, line = refused(method, **changes)
  assert code == Exit.USAGE and words in line, line


def test_every_way_is_refused_from_the_command_line_too(refused):
  """One of `settings_test`, whose list is that of `config.validate`."""
  name = "a pair of more"
  method, changes, words = settings_test.REFUSED[name]
  code, line = refused(method, **changes)
  assert code == Exit.USAGE and words in line


def test_prompts_and_steps_that_do_not_fit(refused, tmp_path):
  # These need the tokenizer, which comes with the weights.
  code, line = refused(may_load=True, data__max_prompt_length=4)
  assert code == Exit.DATA and "prompt_too_long 24" in line, line
  code, line = refused("ppo", may_load=True, rollout__prompts=48)
  assert code == Exit.DATA and "24 usable prompts are fewer than the 48" in line
  # The tiny model's context is 512.
  long = {"data__max_prompt_length": 505, "batch__row_length": 1024}
  code, line = refused(may_load=True, **long)
  assert code == Exit.USAGE and "= 513 > the model's context=512" in line
  code, line = refused("ppo", may_load=True, rollout__value_source="tiny")
  assert code == Exit.USAGE
  assert "rollout.value_source='tiny' has no reward head" in line


@pytest.mark.parametrize(
  "method, tokens, words",
  [
    ("rm_token", "other", "has another tokenizer than the policy"),
    ("rm_bt", "same", "is a run of rm_bt; name one of rm_token"),
  ],
)
def test_rewards_of_other_tokens(monkeypatch, method, tokens, words):
  written = lambda name: types.SimpleNamespace(fingerprint=lambda: name)
  run = types.SimpleNamespace(
    method=types.SimpleNamespace(id=method), tokenizer=written(tokens)
  )
  monkeypatch.setattr(token_rewards.score, "open_run", lambda source: run)
  with pytest.raises(XpoError, match=words) as error:
    token_rewards.open_run("runs/rm", written("same"))
  assert error.value.code == Exit.USAGE and "runs/rm" in str(error.value)


# What a user's function may do wrong, from its place in a rollout; one line
# each in `corpus_test`.


def some(prompts, texts):
  return [None if "x" in t else float(len(t)) for t in texts]


def nothing(prompts, texts):
  return [float("nan")] * len(texts)


def short(prompts, texts):
  return [1.0] * (len(texts) - 1)


def raises(prompts, texts):
  return [1 / len(t.replace("x", "")) for t in texts]


def hangs(prompts, texts):
  while True:
    pass


def judged(name, texts, tally=Tally()):  # noqa: B008
  source = f"{__name__}:{name}"
  section = judge_config.section(name="function", source=source)
  built = judge_config.build(section, "judge")
  ended = np.ones((len(texts), len(texts[0])), bool)
  prompts = [f"p{n}" for n in range(len(texts))]
  return verdicts.score(built, prompts, texts, ended, tally)


def test_a_row_without_a_score_is_absent_and_counted():
  """8 of 16: under the limit of 10% only as long as fewer than 100 came."""
  texts = [["a", "x"], ["xx", "xb"], ["bb", "ccc"]]
  found = judged("some", texts)
  np.testing.assert_array_equal(
    found.scores, [[1, np.nan], [np.nan, np.nan], [2, 3]]
  )
  assert found.tally == Tally(6, (("none", 3),))
  assert found.tally.metrics() == {"judge/invalid": 0.5}
  made = groups.keep_all(samples.prompts(3), samples.drawn(3, 2), found.scores)
  sizes = [g and [len(c) > 0 for c in g.completions] for g in made]
  assert sizes == [[True, False], None, [True, True]]


@pytest.mark.slow
def test_a_run_with_such_functions(xpo, tmp_path, monkeypatch):
  """The same through `xpo train`: some without a score, then all."""
  monkeypatch.setattr(parallel, "start", lambda cache: None)
  monkeypatch.setenv("XPO_CACHE", str(tmp_path / "cache"))
  here = {"judge__name": "function", "mesh__data": 8}
  wanted = {"thirds": 0, "nothing": Exit.NUMERIC, "short": Exit.USAGE}
  for name, code in wanted.items():
    config = runs.make(
      tmp_path,
      **settings_test.BASE
      | here
      | {
        "method": "rloo",
        "judge__source": f"{__name__}:{name}",
        "judge__max_invalid": 0.5,
        "data__max_prompt_length": 32,
        "train__steps": 3,
        "data__eval_source": "",
      },
    )
    path = runs.save(config, tmp_path / "config.json")
    run = tmp_path / name
    found, _, err = xpo("train", f"--config={path}", f"--workdir={run}")
    assert found == code, err
    assert not code or len(err) == 1
    if not code:
      text = (run / "rollouts" / "000000.jsonl").read_text()
      scores = [s for r in text.splitlines() for s in json.loads(r)["scores"]]
      share = sum(s is None for s in scores) / len(scores)
      first = runs.lines(run)[0]
      assert 0 < share < 0.5
      assert first["judge/scored"] == pytest.approx(1 - share)
      assert first["judge/invalid"] == pytest.approx(share)
      assert np.isfinite(first["loss"])


def thirds(prompts, texts):
  return [None if len(t) % 3 == 0 else float(len(t)) for t in texts]
