"""A stage of a scripted model, started as often as a test wants."""

import json

import pytest

from xpo_jax import judging


def fixture(stage, settings):
  """run(model, folder's name, **changes) -> (folder, summary).

  Args:
    stage: module with check and run.
    settings: (folder, **changes) -> its settings.
  """

  @pytest.fixture
  def run(tmp_path, monkeypatch):
    def run(model, name="a", **changes):
      monkeypatch.setattr(judging, "open_reader", lambda *_: model)
      chosen = settings(tmp_path, **changes)
      stage.check(chosen, "stages.x")
      return tmp_path / name, stage.run(chosen, tmp_path / name)

    return run

  return run


def rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]
