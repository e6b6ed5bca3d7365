"""Stages in order: skipped when finished, refused when changed, resumed."""

import json
import pathlib
import time

import jax
from ml_collections import ConfigDict
import pytest

from tests import runs
from xpo_jax import config, flags, pipeline, train
from xpo_jax.errors import XpoError

TWO_STAGES = """import pathlib
from ml_collections import ConfigDict
from xpo_jax import config

FOLDER = pathlib.Path(__file__).parent

def get_config():
  read = lambda name: config.from_json((FOLDER / f"{name}.json").read_text())
  return ConfigDict(dict(
    title="two", model="tiny", data="ours", notes=("a note",),
    order=("sft", "dpo"), stages=dict(sft=read("sft"), dpo=read("dpo")),
  ))
"""


def evaluation(folder, **changes):
  """The quickstart's evaluation, of two policies on rows of ours."""
  chosen = flags.load_config_file(str(runs.ROOT / "configs/quickstart.py:tiny"))
  stage = chosen.stages.evaluate.to_dict()
  stage |= dict(rewards={}, prompts_at_once=8, completions=2, max_new_tokens=8)
  stage["data"]["source"] = str(folder / "held.jsonl")
  return {**stage, **changes}


def settings(folder, order=("sft", "dpo", "evaluate"), **dpo):
  sft = runs.make(folder, "sft", train__steps=4)
  later = {"model__source": "stage:sft", "train__steps": 4, **dpo}
  stages = {"sft": sft, "dpo": runs.make(folder, "dpo", **later)}
  if "evaluate" in order:
    stages["evaluate"] = evaluation(folder)
  return ConfigDict(
    dict(
      title="Three <stages>",
      model="tiny",
      data="ours",
      notes=("a note",),
      order=order,
      stages=stages,
    )
  )


@pytest.mark.parametrize(
  "value, wanted",
  [
    ("stage:sft", "/w/sft"),
    ("stage:sft/a/data.jsonl", "/w/sft/a/data.jsonl"),
    ("stage:sft@40", "/w/sft@40"),
    ("stage:sft@best", "/w/sft@best"),
  ],
)
def test_a_stage_stands_for_its_folder_a_file_or_a_checkpoint(value, wanted):
  chosen = ConfigDict(
    dict(order=("sft", "b"), stages=dict(sft=dict(), b=dict(x=value)))
  )
  assert pipeline.resolve(chosen, pathlib.Path("/w"))["b"].x == wanted


@pytest.mark.parametrize(
  "change, words",
  [
    (lambda s: s.update(order=("dpo", "sft")), "'stage:sft' is no earlier"),
    (
      lambda s: s.stages.dpo.unlock().model.update(source="stage:sfd"),
      "stages.dpo: 'stage:sfd' is no earlier stage; earlier ones: sft",
    ),
    (lambda s: s.update(order=("sft",)), "must name each of stages="),
    (lambda s: s.__delattr__("title"), "no 'title'; see configs/quickstart.py"),
    (
      lambda s: s.stages.dpo.unlock().optimizer.update(b1=1.5),
      "optimizer.b1=1.5",
    ),
    (
      lambda s: s.stages.update(evaluate=evaluation_of(s, final="dop")),
      "stages.evaluate.final='dop' is none of its columns",
    ),
    (
      lambda s: s.stages.update(evaluate=evaluation_of(s, prompt=1)),
      "stages.evaluate.prompt is unknown",
    ),
  ],
)
def test_a_wrong_stage_is_refused_before_anything_starts(
  tmp_path, monkeypatch, change, words
):
  monkeypatch.setattr(train, "run", None)  # nothing may be trained
  chosen = settings(tmp_path, order=("sft", "dpo"))
  change(chosen)
  if "evaluate" in chosen.stages:
    chosen.order = ("sft", "dpo", "evaluate")
  with pytest.raises(XpoError) as error:
    pipeline.run(chosen, tmp_path / "run")
  assert error.value.code == 64 and words in str(error.value)
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("margins", [[], [0.5, -0.5, 1.0], [float("nan")]])
def test_accuracy_is_of_pairs_if_there_are_any(tmp_path, monkeypatch, margins):
  """Of one cluster: no standard error."""
  rows = [{"id": "a", "cluster": "c", "rewards/margin": m} for m in margins]

  def trained(stage, folder):
    runs.write(folder / "held_out.jsonl", rows)
    return {"steps": 4}

  monkeypatch.setattr(train, "run", trained)
  chosen = settings(tmp_path, order=("sft", "dpo"))
  chosen.order = ("sft",)
  del chosen.stages["dpo"]
  pipeline.run(chosen, tmp_path / "run")
  page = (tmp_path / "run" / "report.html").read_text()
  assert ("Held-out pairs" in page) == (len(margins) == 3)
  assert ("<td>0.667</td>" in page) == (len(margins) == 3)
  assert "nan" not in page.lower().partition("<main")[2]


def evaluation_of(chosen, **changes):
  folder = chosen.stages.dpo.data.source.rpartition("/")[0]
  return evaluation(runs.pathlib.Path(folder), **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """(folder of data, run folder, what `pipeline.run` returned)."""
  folder = tmp_path_factory.mktemp("pipeline")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XPO_CACHE", str(folder / "cache"))
    patch.setattr(jax, "devices", lambda: jax.local_devices()[:1])
    yield folder, pipeline.run(settings(folder), folder / "run")


@pytest.mark.slow
def test_all_stages_leave_a_report(finished):
  folder, done = finished
  assert list(done) == ["sft", "dpo", "evaluate"]
  page = (folder / "run" / "report.html").read_text()
  assert "Three &lt;stages&gt;" in page and "a note" in page
  first = runs.lines(folder / "run" / "dpo")[0]
  assert first["loss"] == pytest.approx(0.693147, abs=1e-4)
  start = json.loads((folder / "run" / "dpo" / "config.json").read_text())
  assert start["model"]["source"] == str(folder / "run" / "sft")
  samples = (folder / "run" / "evaluate" / "samples-dpo.jsonl").read_text()
  assert len(samples.splitlines()) == 10  # held-out prompts


@pytest.mark.slow
def test_finished_stages_are_skipped(finished, monkeypatch, capsys):
  folder, done = finished
  monkeypatch.setattr(train, "run", None)
  monkeypatch.setattr(pipeline.evaluation, "run", None)
  again = pipeline.run(settings(folder), folder / "run")
  assert again == json.loads(json.dumps(done))
  out = capsys.readouterr().out
  assert out.count("finished before, skipped") == 3
  # A folder that was moved is still the same run.
  (folder / "run").rename(folder / "moved")
  pipeline.run(settings(folder), folder / "moved")
  (folder / "moved").rename(folder / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
  "changes, refused",
  [
    (dict(optimizer__learning_rate=0.5), "dpo"),
    (dict(method="ipo"), "dpo"),
  ],
)
def test_a_changed_stage_is_refused(finished, monkeypatch, changes, refused):
  folder, _ = finished
  monkeypatch.setattr(train, "run", None)
  chosen = settings(folder)
  method = changes.pop("method", "dpo")
  stage = runs.make(
    folder, method, model__source="stage:sft", train__steps=4, **changes
  )
  chosen.stages.dpo = stage
  with pytest.raises(XpoError, match="was made with another config") as error:
    pipeline.run(chosen, folder / "run")
  assert f"run/{refused} " in str(error.value)
  assert "delete this folder and the later ones" in str(error.value)


@pytest.mark.slow
def test_a_killed_pipeline_resumes_in_its_stage(tmp_path):
  chosen = settings(
    tmp_path, order=("sft", "dpo"), train__steps=100, train__save_every=20
  )
  for name in ("sft", "dpo"):
    text = config.to_json(chosen.stages[name])
    (tmp_path / f"{name}.json").write_text(text)
  (tmp_path / "two.py").write_text(TWO_STAGES)

  def start(name):
    return runs.spawn(
      "run",
      f"--config={tmp_path / 'two.py'}",
      f"--workdir={tmp_path / name}",
      env=runs.environment(tmp_path / "cache"),
    )

  killed, log = start("killed"), tmp_path / "killed" / "dpo" / "metrics.jsonl"
  end = time.monotonic() + runs.SECONDS
  while killed.poll() is None and time.monotonic() < end:
    if log.exists() and log.read_text().count("\n") >= 45:
      break
    time.sleep(0.01)
  killed.kill()
  assert runs.finish(killed)[0] == -9
  code, out, err = runs.finish(start("killed"))
  assert code == 0, err
  assert "stage 1 of 2: sft: finished before, skipped" in out
  assert "resumed at step" in out and "stage 2 of 2: dpo" in out
  code, _, err = runs.finish(start("whole"))
  assert code == 0, err
  for stage in ("sft", "dpo"):
    one, other = tmp_path / "killed" / stage, tmp_path / "whole" / stage
    runs.same_bits(runs.bits(one), runs.bits(other))
    assert runs.lines(one) == runs.lines(other)


def test_the_runs_seed_is_every_stages():
  settings = ConfigDict(
    dict(seed=7, stages=dict(a=dict(seed=0, x=1), b=dict(seed=1)))
  )
  out = pipeline.spread(settings.lock())
  assert [out.stages[name].seed for name in "ab"] == [7, 7]
  assert out.stages.a.x == 1
  assert settings.stages.a.seed == 0
