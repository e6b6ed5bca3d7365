"""A resumed run is the same run: what has changed is refused by its name."""

import json

import pytest

from tests import runs
from xpo_jax import config as config_lib
from xpo_jax import parallel, resume, stored, train, versions
from xpo_jax.errors import XpoError

OLD = {name: name[0] * 16 for name in resume.FINGERPRINTS}


@pytest.fixture
def run(tmp_path, monkeypatch):
  """A run folder whose newest checkpoint has this config."""
  config = runs.make(tmp_path)
  meta = {"config": json.loads(config_lib.to_json(config))}
  monkeypatch.setattr(stored, "read_meta", lambda folder: meta)
  return tmp_path


@pytest.mark.parametrize(
  "key, value",
  [
    ("seed", 1),
    ("method.beta", 0.2),
    ("batch.prompts", 4),
    ("data.template", "chat"),
    ("data.source", "other.jsonl"),
    ("reference.mode", "live"),
    ("optimizer.learning_rate", 0.5),
    ("model.source", "elsewhere"),
  ],
)
def test_a_changed_key_is_refused_unless_allowed(run, capsys, key, value):
  changed = runs.make(run).copy_and_resolve_references().unlock()
  old = changed
  for part in key.split("."):
    old = old[part]
  changed.update_from_flattened_dict({key: value})
  words = f"was trained with {key}={old!r}, now it is {value!r}"
  with pytest.raises(XpoError) as error:
    resume.refuse_config(run, changed, allowed=("lora.rank",))
  assert error.value.code == 66 and words in str(error.value)
  assert f"--allow-change={key}" in str(error.value)
  resume.refuse_config(run, changed, allowed=(key,))
  assert f"{words}; allowed" in capsys.readouterr().out


def test_what_decides_no_parameter_may_change(run, capsys):
  free = dict(
    train__save_every=3,
    train__keep=9,
    train__keep_best=0,
    train__stall_seconds=5,
    mesh__fsdp=2,
    data__eval_limit=3,
  )
  resume.refuse_config(run, runs.make(run, **free))
  assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", resume.FINGERPRINTS)
def test_changed_content_is_refused_unless_allowed(tmp_path, capsys, name):
  resume.refuse_fingerprints(tmp_path, OLD, OLD)
  now = OLD | {name: "n" * 16}
  with pytest.raises(XpoError, match=f"{name} has changed since") as error:
    resume.refuse_fingerprints(tmp_path, OLD, now, allowed=("seed",))
  assert error.value.code == 66
  assert f"{OLD[name]}, now {'n' * 16}" in str(error.value)
  absent = {k: v for k, v in OLD.items() if k != name}
  with pytest.raises(XpoError, match=f"{name} has changed since"):
    resume.refuse_fingerprints(tmp_path, absent, OLD)
  resume.refuse_fingerprints(tmp_path, OLD, now, allowed=(name,))
  assert "allowed" in capsys.readouterr().out


def test_only_what_exists_can_be_allowed(run):
  chosen = runs.make(run)
  resume.check_allowed(["data", "method.beta", "order"], chosen)
  with pytest.raises(XpoError, match="allow-change=betta names no") as error:
    resume.check_allowed(["data", "betta"], chosen)
  assert error.value.code == 64


@pytest.mark.parametrize(
  "flag, wanted",
  [((), []), (("--allow-change=data,method.beta",), ["data", "method.beta"])],
)
def test_the_flag_reaches_the_run(xpo, tmp_path, monkeypatch, flag, wanted):
  seen = []
  monkeypatch.setattr(parallel, "start", lambda cache: None)
  monkeypatch.setattr(
    train, "run", lambda *args, allow_change: seen.append(allow_change)
  )
  path = runs.save(runs.make(tmp_path), tmp_path / "config.json")
  code, _, err = xpo(
    "train", f"--config={path}", f"--workdir={tmp_path / 'r'}", *flag
  )
  assert (code, err, seen) == (0, [], [wanted])


def test_versions_are_those_that_run():
  import jax
  import numpy

  found = versions.installed()
  assert (found["jax"], found["numpy"]) == (jax.__version__, numpy.__version__)
  commit = versions.revision().removesuffix("+")
  assert (
    commit == "" or len(commit) == 40 and set(commit) <= set("0123456789abcdef")
  )
