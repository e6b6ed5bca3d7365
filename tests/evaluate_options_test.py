"""Flags of `xpo evaluate` become one evaluation."""

import argparse

import pytest

from tests import runs
from xpo_jax import evaluate_options as options
from xpo_jax import evaluation, stored
from xpo_jax.errors import XpoError


def parse(*flags):
  parser = argparse.ArgumentParser(allow_abbrev=False)
  options.add_flags(parser)
  return parser.parse_args(flags)


@pytest.mark.parametrize(
  "flags, words",
  [
    ((), "name two models"),
    (("a",), "name two models"),
    (("a", "b"), "--workdir is required"),
    (("a", "a", "--workdir=w"), "one is named twice"),
    (("a", "b", "--run=r"), "--run=r is evaluated alone"),
    (("--run=no/such",), "--run=no/such is no folder"),
    (("a", "b", "--workdir=w", "--completions=0"), "--completions=0 must be"),
    (("a", "b", "--workdir=w", "--top-p=0"), "--top-p=0.0 must be in"),
    (("a", "b", "--workdir=w", "--temperature=nan"), "--temperature=nan"),
    (("a", "b", "--workdir=w", "--choices=no.jsonl"), "--choices=no.jsonl: t"),
    (("a", "b", "--workdir=w", "--judge=bst"), "--judge.name='bst'"),
    (("a", "b", "--workdir=w", "--judge=pairwise"), "--judge.source is empty"),
  ],
)
def test_wrong_flags(flags, words):
  with pytest.raises(XpoError) as error:
    options.check(parse(*flags))
  assert error.value.code == 64 and words in str(error.value)


def test_settings_are_a_valid_run(tmp_path, monkeypatch):
  path = str(runs.write(tmp_path / "d.jsonl", [runs.pair(0)]))
  same = iter([True, False])
  monkeypatch.setattr(options, "_same_tokenizer", lambda _: next(same))
  flags = ["x/run", "y/run", f"--data={path}", "--workdir=w", "--prompts=5",
           "--judge=length", "--judge-source=1-9"]  # fmt: skip
  args = parse(*flags)
  options.check(args)
  chosen = options.settings(args)
  stage = chosen.stages.evaluate
  evaluation.check(stage, "stages.evaluate")
  assert stage.policies.to_dict() == {"run 1": "x/run", "run 2": "y/run"}
  assert (stage.baseline, stage.final) == ("run 1", "run 2")
  assert stage.reference == "run 1" and stage.prompts_at_once == 5
  assert stage.judge.source == "1-9" and stage.measures == ()
  assert chosen.notes == ()
  other = options.settings(parse(*flags, "--temperature=0.7"))
  assert other.stages.evaluate.reference == ""
  assert len(other.notes) == 2


def test_short_names():
  names = options.labels(["runs/sft", "runs/dpo@best", "tiny", "old/sft/"])
  assert names == ["sft 1", "dpo@best", "tiny", "sft 4"]


def test_a_run_is_named_by_its_step(tmp_path, monkeypatch):
  """What is trained later is another model; a pattern is no model."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "model.json").touch()  # an empty source is not this folder
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "model.json").touch()
  monkeypatch.setattr(
    stored, "choose", lambda run, which: {"": 8}.get(which, 4)
  )
  monkeypatch.setattr(options, "_same_tokenizer", lambda _: True)
  flags = ["run", "run@best", "--data=x", "--workdir=w"]
  args = parse(*flags, "--judge=rating", "--judge-source=run")
  stage = options.settings(args).stages.evaluate
  assert list(stage.policies.to_dict().values()) == ["run@8", "run@4"]
  assert (stage.judge.source, stage.judge.reference) == ("run@8", "")
  args = parse(*flags, "--judge=format", "--judge-source=[a-z]+@[a-z]+")
  stage = options.settings(args).stages.evaluate
  assert stage.judge.source == "[a-z]+@[a-z]+"
