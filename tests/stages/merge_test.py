"""The merge stage: what it refuses, what it writes, and PAFT as a whole."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests import runs
from tests import tiny_models as tiny
from tests.pretrained_test import CONFIG, message, write_run
from xpo_jax import config, flags, pipeline, pretrained, train
from xpo_jax.errors import XpoError
from xpo_jax.models.model import Model
from xpo_jax.models.weights import export
from xpo_jax.models.weights.tokenizer import byte_tokenizer, train_bpe
from xpo_jax.stages import merge

SOURCES = {"sources": ("a", "b"), "base": "c"}


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"operator": "tie"}, "operator='tie': did you mean 'ties'? choose linear"),
    ({"operator": 3}, "operator=3: choose linear, task_arithmetic"),
    ({"sources": ()}, "sources=(): must be given"),
    ({"sources": "a"}, "sources='a': must be a list of texts"),
    ({"base": ""}, "base='': must be given"),
    ({"density": 0.2}, "density is unknown; did you mean 'densities'?"),
    ({"operator": "linear", "drop": 0.5}, "drop is unknown to linear, only"),
    ({"operator": "linear", "densities": (1.0,)}, "only ties, dare_ties read"),
    ({"operator": "slerp", "t": 1.5}, "t=1.5: must be in [0, 1]"),
    (
      {"operator": "slerp", "sources": ("a", "b", "c")},
      "slerp merges two models, not 3",
    ),
    ({"operator": "dare_ties", "drop": 1.0}, "drop=1.0: must be in [0, 1)"),
    ({"densities": (0.2,)}, "densities=(0.2,): must be one a source, 2"),
    ({"densities": (0.2, 0.0)}, "densities=(0.2, 0.0): must be in (0, 1]"),
    ({"densities": 0.2}, "densities=0.2: must be a list of numbers"),
    ({"weights": (1.0, float("nan"))}, "must be a list of numbers"),
    ({"weights": (1.0, -1.0)}, "weights=(1.0, -1.0): must be > 0 for ties"),
    ({"operator": "linear", "weights": (1, -1)}, "must not add up to 0"),
    ({"trim_scope": "layer"}, "must be one of vector, tensor"),
    ({"dtype": "int8"}, "must be one of float32, bfloat16, float16"),
    ({"seed": -1}, "seed=-1: must be in [0, 2**31)"),
  ],
)
def test_what_cannot_be_merged_is_refused_at_once(changes, words):
  with pytest.raises(XpoError) as error:
    merge.check({**SOURCES, "operator": "ties", **changes}, "stages.m")
  assert error.value.code == 64 and "\n" not in str(error.value)
  assert str(error.value).startswith("stages.m.") and words in str(error.value)


def test_what_is_not_given_has_a_default():
  filled = merge.fill(SOURCES, "m")
  assert filled.operator == "ties" and filled.weights == (1.0, 1.0)
  assert filled.densities == (0.2, 0.2) and filled.scale == 1.0
  filled = merge.fill({**SOURCES, "densities": [1, 0.2]}, "m")
  assert filled.densities == (1.0, 0.2)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """A base as a folder, a LoRA run of it and a folder of other weights."""
  folder = tmp_path_factory.mktemp("models")
  whole = tiny.params(CONFIG)
  export.save_folder(folder / "base", CONFIG, whole, byte_tokenizer())
  settings = config.base()
  settings.model.source = str(folder / "base")
  model = Model(CONFIG, lora=(2, 1.5))
  run = write_run(
    folder / "run", model, {"lora": tiny.lora(model, up=0.2)}, settings
  )
  noise = np.random.default_rng(1)
  moved = jax.tree.map(
    lambda x: (x + noise.normal(0, 0.1, x.shape)).astype(np.float32), whole
  )
  export.save_folder(folder / "other", CONFIG, moved, byte_tokenizer())
  return folder, run


def params(source):
  return pretrained.load_pretrained(source).params


def test_ties_of_everything_in_one_source_is_that_source(models, tmp_path):
  folder, run = models
  for source in (run, folder / "other"):
    out = tmp_path / source.name
    summary = merge.run(
      {
        "operator": "ties",
        "sources": (str(source),),
        "base": str(folder / "base"),
        "densities": (1.0,),
      },
      out,
    )
    found = pretrained.load_pretrained(out / "model")
    jax.tree.map(np.testing.assert_array_equal, found.params, params(source))
    assert found.tokenizer.fingerprint() == byte_tokenizer().fingerprint()
    assert summary["measures"]["cosine"][0][1] == pytest.approx(1, abs=1e-9)
    json.dumps(summary, allow_nan=False)


def test_a_merge_of_two_is_written_and_measured(models, tmp_path):
  folder, run = models
  names = (run, folder / "other")
  base, one, two = map(params, (folder / "base", *names))
  summary = merge.run(
    {
      "operator": "task_arithmetic",
      "sources": tuple(map(str, names)),
      "base": str(folder / "base"),
      "weights": (1.0, 3.0),
      "scale": 0.5,
    },
    tmp_path,
  )
  wanted = jax.tree.map(
    lambda z, a, b: z + 0.5 * ((a - z) + 3 * (b - z)), base, one, two
  )
  tiny.assert_near(params(tmp_path / "model"), wanted, 1e-6)
  join = lambda tree: np.concatenate(
    [np.ravel(x).astype(float) for x in jax.tree.leaves(tree)]
  )
  z, a, b = map(join, (base, one, two))
  found, (table,) = summary["measures"], summary["tables"]
  norm = lambda x: np.sqrt(np.sum(x * x))
  cosine = (a - z) @ (b - z) / norm(a - z) / norm(b - z)
  assert found["norm"][:2] == pytest.approx([norm(a - z), norm(b - z)])
  assert found["cosine"][0][1] == pytest.approx(cosine, abs=1e-9)
  assert found["sparsity"][0] == pytest.approx(np.mean(np.abs(a - z) < 1e-5))
  both = (np.abs(a - z) >= 1e-5) & (np.abs(b - z) >= 1e-5)
  clash = np.sign(a - z)[both] != np.sign(b - z)[both]
  assert found["conflict"] == pytest.approx(clash.mean())
  assert [row[0] for row in table["rows"]] == ["run", "other", "merged"]
  assert all(len(row) == len(table["columns"]) for row in table["rows"])


def test_a_killed_merge_is_made_again_with_the_same_bytes(
  models, tmp_path, monkeypatch
):
  folder, run = models
  settings = {
    "operator": "dare_ties",
    "sources": (str(run), str(folder / "other")),
    "base": str(folder / "base"),
    "drop": 0.5,
    "seed": 5,
  }
  first = merge.run(settings, tmp_path / "whole")

  def killed(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(export, "write_file", killed)
    merge.run(settings, tmp_path / "killed")
  assert not (tmp_path / "killed" / "model").exists()
  (tmp_path / "killed" / ".part-left").mkdir()  # of a power cut
  assert merge.run(settings, tmp_path / "killed") == first
  # Nor does it matter when all was written but not yet noted.
  merge.run(settings, tmp_path / "killed")
  assert [p.name for p in (tmp_path / "killed").iterdir()] == ["model"]
  for path in (tmp_path / "whole" / "model").iterdir():
    again = tmp_path / "killed" / "model" / path.name
    assert again.read_bytes() == path.read_bytes(), path.name


def test_strangers_are_one_line(models, tmp_path):
  folder, run = models
  deep = dataclasses.replace(CONFIG, layers=1)
  export.save_folder(
    tmp_path / "deep", deep, tiny.params(deep), byte_tokenizer()
  )
  words = train_bpe(["some words, some more words"] * 3, 260)
  export.save_folder(tmp_path / "words", CONFIG, tiny.params(CONFIG), words)
  head = {"kernel": np.ones(CONFIG.width, np.float32), "bias": np.float32(0)}
  export.save_folder(
    tmp_path / "judge",
    CONFIG,
    tiny.params(CONFIG),
    byte_tokenizer(),
    reward_head=head,
  )
  ask = lambda source: message(
    lambda: merge.run(
      {"sources": (str(source),), "base": str(folder / "base")},
      tmp_path / "out",
    )
  )
  assert "deep is of another architecture than base=" in ask(tmp_path / "deep")
  assert "words has another tokenizer than base=" in ask(tmp_path / "words")
  assert "judge is a reward model" in ask(tmp_path / "judge")
  assert "no such preset, folder" in ask(tmp_path / "nothing")
  assert not (tmp_path / "out" / "model").exists()


def test_stages_name_folders_inside_of_stages(tmp_path, root):
  chosen = flags.load_config_file(str(root / "configs/recipes/paft.py:tiny"))
  stages = pipeline.resolve(chosen, tmp_path)
  assert stages["merge"].sources == (f"{tmp_path}/sparse", f"{tmp_path}/dpo")
  assert stages["merge"].base == f"{tmp_path}/sft"
  assert stages["evaluate"].policies.merged == f"{tmp_path}/merge/model"
  chosen.stages.merge.sources = ("stage:sft", "stage:dqo/model")
  with pytest.raises(XpoError, match="'stage:dqo/model' is no earlier stage"):
    pipeline.resolve(chosen, tmp_path)
  del chosen.unlock().stages.merge["operator"]
  chosen.stages.merge.sources = ()
  with pytest.raises(XpoError, match="none of the keys that tell kinds"):
    pipeline.run(chosen, tmp_path)


@pytest.mark.slow
def test_paft_from_start_to_report(tmp_path, root, monkeypatch, capsys):
  monkeypatch.setenv("XPO_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:1])
  chosen = flags.load_config_file(str(root / "configs/recipes/paft.py:tiny"))
  for name in ("sft", "gold", "sparse", "dpo"):
    stage = chosen.stages[name]
    stage.data.limit, stage.data.eval_limit = 64, 16
    stage.train.epochs, stage.train.steps = 0.0, 8
    stage.batch.prompts = 16
  evaluate = chosen.stages.evaluate
  evaluate.prompts, evaluate.prompts_at_once = 8, 8
  evaluate.completions, evaluate.max_new_tokens = 2, 6
  run = tmp_path / "run"
  done = pipeline.run(chosen, run)
  page = (run / "report.html").read_text()
  assert "ties of 2 models" in page and "merged" in page
  penalty = [x["loss/l1"] for x in runs.lines(run / "sparse") if "loss/l1" in x]
  assert len(penalty) == 8 and penalty[0] == 0 < penalty[-1]
  first = runs.lines(run / "dpo")[0]
  assert first["loss"] == pytest.approx(np.log(2), abs=1e-4)

  # Every entry by the rule: all of SFT's changes, the largest fifth of DPO's.
  base, sft, dpo, found = map(
    params, (run / "sft", run / "sparse", run / "dpo", run / "merge/model")
  )
  leaves = jax.tree_util.tree_leaves_with_path
  join = lambda tree: np.concatenate([np.ravel(x) for _, x in leaves(tree)])
  adapted = np.concatenate(
    [
      np.full(x.size, not np.array_equal(x, z))
      for (_, x), (_, z) in zip(leaves(dpo), leaves(base), strict=True)
    ]
  )
  z, a, b, theta = (
    join(x)[adapted].astype(float) for x in (base, sft, dpo, found)
  )
  a, b = a - z, b - z
  keep = int(0.2 * len(b))
  b[np.argsort(-np.abs(b.astype(np.float32)), kind="stable")[keep:]] = 0
  clash = a * b < 0
  one = np.where(np.abs(a) > np.abs(b), a, b)  # the larger sum's sign wins
  mean = np.where((a != 0) & (b != 0), (a + b) / 2, a + b)
  np.testing.assert_allclose(
    theta - z, np.where(clash, one, mean), rtol=0, atol=1e-6
  )
  assert 0.01 < clash.mean() < 0.2 and keep == np.sum(b != 0)
  names = np.array_equal(join(found)[~adapted], join(base)[~adapted])
  assert names

  # All of it is skipped the second time.
  capsys.readouterr()
  for module in {*pipeline.KINDS.values()}:
    monkeypatch.setattr(module, "run", None)
  again = pipeline.run(chosen, run)
  assert again == json.loads(json.dumps(done))
  assert capsys.readouterr().out.count("finished before, skipped") == 6
  assert train.run is None
