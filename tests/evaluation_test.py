"""Settings that are refused, and a whole evaluation on tiny models."""

import json

from ml_collections import ConfigDict
import numpy as np
import pytest

from tests import runs
from tests.judging_test import CONFIG, MODEL, head, params
from tests.pretrained_test import write_run
from xpo_jax import cli, config, evaluation, held_out
from xpo_jax.errors import XpoError
from xpo_jax.evals import diversity
from xpo_jax.models.weights.export import save_folder
from xpo_jax.models.weights.tokenizer import byte_tokenizer


def test_held_out_accuracy_counts_positive_margins(tmp_path):
  rows = [("a", 0.3), ("a", -0.1), ("b", 0.0), ("b", 2.0)]
  lines = [
    json.dumps({"id": f"{c}{i}", "cluster": c, "rewards/margin": m})
    for i, (c, m) in enumerate(rows)
  ]
  (tmp_path / held_out.FILE).write_text("\n".join(lines) + "\n")
  found = evaluation.held_out_accuracy(tmp_path)
  assert (found.mean, found.n, found.clusters) == (0.5, 4, 2)


def test_no_margins_no_accuracy(tmp_path):
  assert evaluation.held_out_accuracy(tmp_path) is None
  for line in ('{"id": "a", "cluster": ""}\n', "\n"):
    (tmp_path / held_out.FILE).write_text(line.strip())
    assert evaluation.held_out_accuracy(tmp_path) is None


def test_margins_that_are_not_finite_are_left_out(tmp_path):
  margins = (1.0, float("nan"), -1.0, float("inf"), 2.0)
  rows = [
    {"id": str(n), "cluster": "", "rewards/margin": m}
    for n, m in enumerate(margins)
  ]
  runs.write(tmp_path / held_out.FILE, rows)
  found = evaluation.held_out_accuracy(tmp_path)
  assert found.n == 3 and found.mean == pytest.approx(2 / 3)
  runs.write(tmp_path / held_out.FILE, rows[1:2])
  assert evaluation.held_out_accuracy(tmp_path) is None


def settings(folder, **more):
  chosen = dict(
    policies=dict(a=str(folder / "a"), b=str(folder / "b")),
    columns=("a", "b"),
    baseline="a",
    final="b",
    reference="a",
    rewards={},
    data=dict(
      source=str(folder / "pairs.jsonl"),
      split="validation",
      format="auto",
      on_bad_row="error",
    ),
    prompts=4,
    prompts_at_once=4,
    template="plain",
    completions=2,
    max_new_tokens=6,
    temperature=1.0,
    top_p=1.0,
    seed=0,
    shared_blocks=0,
  )
  return ConfigDict(chosen | more).lock()


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"final": "c"}, "x.final='c' is none of its columns: a, b"),
    ({"columns": ("a",)}, "x.final='b' is none of its columns: a"),
    ({"columns": ("a", "c")}, "x.columns: 'c' is none of its policies: a, b"),
    (
      {"policies": {"a": "a", "b": "b", "org/c": "c"}},
      "x.policies: 'org/c' cannot be a part of a file's name",
    ),
    ({"rewards": {"words": "rm"}}, "x.rewards: 'words' is a measure already"),
    ({"rewards": {"self-BLEU": "rm"}}, "'self-BLEU' is a measure already"),
    ({"completions": 0}, "x: completions=0: must be"),
    ({"prompts_at_once": 0}, "x.prompts_at_once=0: must be >= 1"),
    ({"prompts": -1}, "x.prompts=-1: must be >= 0"),
    ({"temperature": -1.0}, "x: temperature=-1.0: must be >= 0"),
    ({"top_p": 0.0}, "x: top_p=0.0: must be in"),
    ({"reference": "c"}, "x.reference='c' is none"),
    ({"baseline": ""}, "x.baseline='' is none"),
    ({"promts": 1}, "x.promts is unknown; an evaluation has baseline"),
    ({"measures": ("VADR",)}, "'VADR'; choose among VADER, TextBlob"),
    ({"judge": {"name": "pairwize"}}, "x.judge.name='pairwize'"),
    ({"judge": {"nam": "pairwise"}}, "x.judge: key 'nam' is unknown"),
    (
      {"harmless": {"name": "pairwise", "source": "a"}},
      "x.harmless.name='pairwise' compares two texts",
    ),
  ],
)
def test_wrong_settings_are_refused(tmp_path, changes, words):
  with pytest.raises(XpoError) as error:
    evaluation.check(settings(tmp_path, **changes), "x")
  assert error.value.code == 64 and words in str(error.value)


def test_no_reference_is_allowed(tmp_path):
  evaluation.check(settings(tmp_path, reference=""), "x")
  lacking = settings(tmp_path).to_dict()
  del lacking["seed"]
  with pytest.raises(XpoError, match="x.seed is missing"):
    evaluation.check(ConfigDict(lacking), "x")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("evaluation")
  for name, seed in (("a", 0), ("b", 1)):
    save_folder(path / name, CONFIG, params(seed), byte_tokenizer())
  runs.write(path / "pairs.jsonl", map(runs.pair, range(5)))
  answers = [str(n) for n in range(5)]
  rows = [
    {
      "prompt": f"{n} =",
      "completions": answers,
      "scores": np.eye(5)[n].tolist(),
    }
    for n in range(4)
  ]
  runs.write(path / "choices.jsonl", rows)
  texts = [{"text": "A stone in a river. " * n} for n in (1, 3)]
  runs.write(path / "texts.jsonl", texts)
  c = config.base().unlock()
  c.method = config.method("rm_bt")
  c.model.source, c.data.source = str(path / "a"), str(path / "pairs.jsonl")
  policy = {"top": params(1), "reward_head": head(3)}
  write_run(path / "reward", MODEL, policy, c.lock())
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XPO_CACHE", str(path / "cache"))
    yield path


@pytest.mark.slow
def test_everything_at_once(folder):
  """Every optional measure; the numbers again from what was left behind."""
  chosen = settings(
    folder,
    rewards={"rm": str(folder / "reward")},
    judge={"name": "length", "source": "1-2"},
    harmless={"name": "length", "source": "2-3"},
    labelled=str(folder / "pairs.jsonl"),
    choices=str(folder / "choices.jsonl"),
    texts=str(folder / "texts.jsonl"),
    measures=(),
  )
  found = evaluation.run(chosen, folder / "whole")
  titles = [t["title"].split(",")[0] for t in found["tables"]]
  assert titles == [
    "4 held-out prompts x 2 samples",
    "b against a",
    "Reward against sqrt(KL to a); * on the frontier",
    "Alignment tax: multiple choice and other people's text",
    "Reward models on 5 rows that people ranked",
    "Judge length against people",
  ]
  means = found["means"]
  assert set(diversity.OF_PROMPT) <= set(means["b"])
  assert means["a"]["KL to a, k1"] == 0 and means["b"]["KL to a, k3"] > 0
  lines = (folder / "whole" / "judge.jsonl").read_text().splitlines()
  scores = np.concatenate([json.loads(line)["scores"] for line in lines])
  won = scores[:, 1] > scores[:, 0]  # column 0 is the final policy's
  lost = scores[:, 0] > scores[:, 1]
  rate = (np.sum(lost) + 0.5 * np.sum(~won & ~lost)) / 8
  assert found["numbers"]["win rate"]["win rate"] == pytest.approx(rate)
  tax = found["numbers"]["tax"]["b"]
  # Close to uniform over 260 ids: the weights are small.
  assert 5 < tax["NLL a token"] < 6.5
  frontier = found["numbers"]["frontier"]
  assert set(frontier) == {"a", "b", "best of 2 of a by rm"}
  assert frontier["best of 2 of a by rm"]["rm"] >= frontier["a"]["rm"]
  # Started again, the samples and the verdicts are read, not made anew.
  before = {p: p.read_bytes() for p in (folder / "whole").glob("*.json*")}
  evaluation.run(chosen, folder / "whole")
  assert before == {p: p.read_bytes() for p in before}


@pytest.mark.slow
def test_sequence_entropy_is_the_plain_model_s(folder):
  chosen = settings(folder, measures=(), completions=1, reference="")
  found = evaluation.run(chosen, folder / "plain")
  (table,) = found["tables"]
  names = [row[0] for row in table["rows"]]
  assert not set(names) & set(diversity.OF_PROMPT)
  assert not any("KL" in n for n in names)
  total = []
  for line in (folder / "plain" / "samples-b.jsonl").read_text().splitlines():
    row = json.loads(line)
    prompt = list(row["prompt"].encode())
    ids = np.array([prompt + row["tokens"][0]])
    every = tiny_logps(params(1), ids)
    total.append(-every[len(prompt) - 1 :].sum())
  assert found["means"]["b"]["sequence entropy"] == pytest.approx(
    np.mean(total), rel=1e-4
  )


def tiny_logps(tree, ids):
  from tests import plain_model

  return np.asarray(plain_model.logps(CONFIG, tree, ids[0]))


@pytest.mark.slow
def test_two_models_from_the_command_line(folder, capsys, monkeypatch):
  monkeypatch.chdir(folder)
  command = [
    "evaluate", "a", "b", "--data=pairs.jsonl", "--prompts=3",
    "--max-new-tokens=4", "--judge=length", "--judge-source=1-2",
    "--workdir=out",
  ]  # fmt: skip
  assert cli.main(command) == 0
  out = capsys.readouterr().out
  assert "KL to a, k1" in out and "b against a, judged by length" in out
  assert (folder / "out" / "report.html").is_file()
  samples = json.loads((folder / "out/evaluate/evaluation.json").read_text())
  assert len(samples["samples"]) == 3
  assert cli.main(command) == 0
  assert "finished before, skipped" in capsys.readouterr().out
  assert cli.main(["evaluate", "--run=out"]) == 0
  assert "b against a, judged by length" in capsys.readouterr().out
  assert cli.main([*command, "--seed=1"]) == 64
  assert "made with another config" in capsys.readouterr().err
