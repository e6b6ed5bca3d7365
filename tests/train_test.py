"""A whole run of the tiny model, in this process."""

import contextlib
import json
import math

import jax
import numpy as np
import pytest

from tests import runs
from xpo_jax import checkpoint, parallel, placement, train
from xpo_jax.errors import XpoError


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cache")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XPO_CACHE", str(folder))
    yield folder


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory):
  """(run folder, its summary) of 6 steps on one device."""
  folder = tmp_path_factory.mktemp("trained")
  config = runs.make(folder)
  return folder / "run", train.run(config, folder / "run", jax.devices()[:1])


def test_a_run_leaves_what_it_promises(trained):
  run, summary = trained
  written = runs.lines(run)
  steps = [line["step"] for line in written]
  assert steps == [1, 2, 3, 3, 4, 5, 6, 6]
  assert written[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
  assert written[-2]["loss"] < 0.6 and written[-2]["rewards/accuracy"] == 1
  assert written[-1]["eval/loss"] == summary["held_out"]["loss"]
  assert checkpoint.saved_steps(run) == [4, 6]  # keep = 2
  found = json.loads((run / "summary.json").read_text())
  assert found == json.loads(json.dumps(summary))
  assert summary["rows"] == {"read": 24, "used": 24}
  assert summary["metrics"]["loss"] == written[-2]["loss"]


def test_held_out_rows_add_up(trained):
  run, summary = trained
  text = (run / "held_out.jsonl").read_text()
  rows = [json.loads(line) for line in text.splitlines()]
  source = run.parent / "held.jsonl"
  assert [row["id"] for row in rows] == [f"{source}:{n}" for n in range(1, 11)]
  for name in ("loss", "rewards/margin", "logps/chosen"):
    mean = np.mean([row[name] for row in rows])
    assert summary["held_out"][name] == pytest.approx(mean, rel=1e-6)
  for row in rows:
    # dpo: loss = log(1 + exp(-margin)), margin = chosen - rejected reward.
    margin = row["rewards/chosen"] - row["rewards/rejected"]
    assert row["rewards/margin"] == pytest.approx(margin, abs=1e-5)
    assert row["loss"] == pytest.approx(math.log1p(math.exp(-margin)), 1e-4)


# What is wrong with data or config is said before any weights are loaded.


@pytest.fixture
def refused(xpo, tmp_path, monkeypatch):
  """Runs `xpo train` on a config that must fail; returns (code, line)."""
  monkeypatch.setattr(parallel, "start", lambda cache: None)

  def load_policy(*_):
    raise AssertionError("weights were loaded before the data was checked")

  def run(may_load=False, rows=(), held=(), **changes):
    if not may_load:
      monkeypatch.setattr(placement, "load_policy", load_policy)
    config = runs.make(tmp_path, **changes)
    if rows:
      runs.write(tmp_path / "train.jsonl", rows)
    if held:
      runs.write(tmp_path / "held.jsonl", held)
    path = runs.save(config, tmp_path / "config.json")
    code, _, err = xpo(
      "train", f"--config={path}", f"--workdir={tmp_path / 'run'}"
    )
    assert len(err) == 1 and not (tmp_path / "run" / "checkpoints").exists()
    return code, err[0]

  return run


def labels(n, label):
  row = runs.pair(n)
  return {"prompt": row["prompt"], "completion": row["chosen"], "label": label}


def test_fewer_rows_than_a_batch(refused):  # D13
  code, line = refused(batch__prompts=32)
  assert code == 65
  assert "24 usable examples are fewer than batch.prompts=32" in line


def test_rows_in_both_splits(refused):  # D15
  code, line = refused(held=[runs.pair(n) for n in (40, 3, 41, 5)])
  assert code == 65 and "held.jsonl:2: 2 of 4 evaluation rows" in line


@pytest.mark.parametrize("label, words", [(1, "(1)"), (0, "(0)")])
def test_one_class_only(refused, label, words):  # D35
  code, line = refused(method="kto", rows=[labels(n, label) for n in range(24)])
  assert code == 65 and words in line and "needs both classes" in line


@pytest.mark.parametrize(
  "changes, code, words",
  [
    # C14: a prompt and a completion do not fit a row.
    (dict(data__max_prompt_length=300), 64, "do not fit batch.row_length=256"),
    # Labels where pairs are wanted, and the other way round.
    (dict(rows=[labels(n, n % 2) for n in range(24)]), 64, "BINARY"),
    (dict(data__format="labels"), 65, "train.jsonl:1"),
    (dict(data__source="nowhere.jsonl"), 65, "nowhere.jsonl"),
    (dict(mesh__tensor=3), 64, "mesh"),
    (dict(reference__source="x", method="sft"), 64, "uses no reference"),
  ],
)
def test_config_and_data_that_do_not_fit(refused, changes, code, words):
  got, line = refused(**changes)
  assert (got, words in line) == (code, True), line


def test_wrong_weights_and_lengths_are_one_line_too(refused):
  # The tokenizer comes with the weights, so these need them.
  code, line = refused(may_load=True, data__max_prompt_length=2)
  assert code == 65 and "prompt_too_long 24" in line
  code, line = refused(may_load=True, model__trained_blocks=4)
  assert code == 64 and "the model has 3 blocks" in line
  code, line = refused(may_load=True, model__source="smollm2-135")
  assert code == 64 and "'smollm2-135m-instruct'" in line


@pytest.fixture
def command(xpo, monkeypatch, cache):
  """`xpo ARGS` in this process: (code, stdout, lines of stderr)."""
  monkeypatch.setattr(parallel, "start", lambda cache: None)
  monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:1])
  return xpo


def again(command, trained, **changes):
  """The command of the finished run once more, with some keys changed."""
  run, _ = trained
  config = runs.make(run.parent, **changes)
  path = runs.save(config, run.parent / "config.json")
  return command("train", f"--config={path}", f"--workdir={run}")


@pytest.mark.slow
def test_a_finished_run_started_again_changes_nothing(trained, command):
  run, summary = trained
  before = runs.lines(run), (run / "held_out.jsonl").read_text()
  code, out, _ = again(command, trained, batch__microbatches=2)
  assert code == 0 and "resumed at step 6 of 6" in out
  assert (runs.lines(run), (run / "held_out.jsonl").read_text()) == before
  found = json.loads((run / "summary.json").read_text())
  assert found["metrics"] == summary["metrics"]
  assert found["held_out"] == pytest.approx(summary["held_out"], rel=1e-5)


@pytest.mark.slow
def test_a_run_may_move_to_other_devices(trained, tmp_path, monkeypatch):
  config = runs.make(
    tmp_path, mesh__fsdp=2, mesh__tensor=2, batch__microbatches=2
  )
  stop = lambda: contextlib.nullcontext(lambda step: step == 3)
  with monkeypatch.context() as patch:
    patch.setattr(train.stopping, "after_step", stop)
    with pytest.raises(XpoError, match="saved at step 3 of 6") as error:
      train.run(config, tmp_path / "run")
  assert error.value.code == 75
  moved = runs.make(tmp_path)
  train.run(moved, tmp_path / "run", jax.devices()[:1])
  (_, found), (_, wanted) = (
    runs.bits(f) for f in (tmp_path / "run", trained[0])
  )
  for name, value in wanted.items():
    if name.startswith("['params']"):
      np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=name)
  steps = [line["step"] for line in runs.lines(tmp_path / "run")]
  assert steps == [1, 2, 3, 3, 4, 5, 6, 6]


@pytest.mark.parametrize(
  "changes, words",
  [
    (dict(optimizer__learning_rate=0.5), "learning_rate=0.001, now it is 0.5"),
    (dict(seed=1), "seed=0, now it is 1"),
    (dict(method="ipo"), "method.beta=0.1, now it is None"),
    (dict(train__steps=9), "train.steps=6, now it is 9"),
  ],
)
def test_a_run_goes_on_under_its_own_config(trained, command, changes, words):
  before = (trained[0] / "config.json").read_text()
  code, _, err = again(command, trained, **changes)
  assert (code, len(err)) == (66, 1) and words in err[0]
  assert "another --workdir" in err[0]
  assert (trained[0] / "config.json").read_text() == before


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_data(trained, command):
  source = trained[0].parent / "train.jsonl"
  original = runs.make(trained[0].parent)
  rows = [runs.pair(n) for n in range(24)]
  rows[5]["chosen"], rows[5]["rejected"] = (
    rows[5]["rejected"],
    rows[5]["chosen"],
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(runs, "make", lambda *_, **__: original)
    runs.write(source, rows)
    code, _, err = again(command, trained)
  runs.write(source, map(runs.pair, range(24)))
  assert (code, len(err)) == (66, 1)
  assert "data has changed since the last step" in err[0]


@pytest.mark.slow
def test_a_reference_that_is_not_the_start_stops_the_run(
  command, tmp_path, monkeypatch
):
  make = placement.make_frozen

  def other(*args):
    frozen, reference = make(*args)
    return frozen, jax.tree.map(lambda x: 1.01 * x, reference)

  monkeypatch.setattr(placement, "make_frozen", other)
  path = runs.save(runs.make(tmp_path), tmp_path / "config.json")
  run = tmp_path / "run"
  code, out, err = command("train", f"--config={path}", f"--workdir={run}")
  assert (code, len(err)) == (70, 1)
  assert "failed: |policy - reference| log-prob" in err[0]
  assert "Checks before step 1" in out and not checkpoint.saved_steps(run)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpo", "rm_bt"])
def test_weights_that_are_not_numbers_stop_the_run(
  command, tmp_path, monkeypatch, method
):
  load = placement.load_policy

  def broken(*args):
    found = load(*args)
    found.params["final_norm"]["scale"] = np.full((128,), np.nan, np.float32)
    return found

  monkeypatch.setattr(placement, "load_policy", broken)
  config = runs.make(tmp_path, method, optimizer__max_skipped=2)
  path = runs.save(config, tmp_path / "config.json")
  code, _, err = command(
    "train", f"--config={path}", f"--workdir={tmp_path / 'run'}"
  )
  assert (code, len(err)) == (70, 1)
  words = {"dpo": "checks before step 1", "rm_bt": "2 steps in a row"}[method]
  assert words in err[0]


@pytest.mark.slow
def test_an_absurd_learning_rate_stops_the_run(command, tmp_path):
  config = runs.make(
    tmp_path, optimizer__learning_rate=1e30, optimizer__max_skipped=3
  )
  path, run = runs.save(config, tmp_path / "config.json"), tmp_path / "run"
  code, _, err = command("train", f"--config={path}", f"--workdir={run}")
  assert (code, len(err)) == (70, 1)
  assert "3 steps in a row" in err[0] and "learning_rate=1e+30" in err[0]
  skipped = [x["optimizer/skipped"] for x in runs.lines(run) if "loss" in x]
  assert skipped[-3:] == [1, 2, 3]


@pytest.mark.slow
def test_what_can_be_done_with_a_run(trained, command, tmp_path):
  run, summary = trained
  code, out, _ = command("evaluate", f"--run={run}")
  assert code == 0
  for name, value in summary["held_out"].items():
    assert name in out and f"{value:.4f}" in out
  prompt = ["--prompt=Row 31: name the tree.", "--max-new-tokens=6"]
  greedy = [*prompt, "--temperature=0", "--template=plain"]
  code, first, _ = command("sample", f"--checkpoint={run}", *greedy)
  assert code == 0 and "Row 31: name the tree." in first
  code, out, _ = command(
    "export", f"--run={run}", f"--output={tmp_path / 'hf'}"
  )
  assert code == 0 and (tmp_path / "hf" / "model.safetensors").is_file()
  code, second, _ = command(
    "sample", f"--checkpoint={tmp_path / 'hf'}", *greedy
  )
  assert code == 0 and second == first
  code, _, err = command("evaluate", f"--run={tmp_path}")
  assert code == 66 and "neither a training run" in err[0]
