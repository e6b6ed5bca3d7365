"""Notebooks carry no outputs and run from a fresh process."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

FILES = sorted(
  (pathlib.Path(__file__).parents[1] / "notebooks").glob("*.ipynb")
)
every_notebook = pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)


def code_cells(file):
  notebook = json.loads(file.read_text(encoding="utf-8"))
  assert notebook["nbformat"] == 4
  return [c for c in notebook["cells"] if c["cell_type"] == "code"]


def test_there_is_one():
  assert FILES


@every_notebook
def test_outputs_are_stripped(file):
  for cell in code_cells(file):
    assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.slow
@every_notebook
def test_every_cell_runs(file, root, tmp_path):
  program = "\n\n".join("".join(cell["source"]) for cell in code_cells(file))
  script = tmp_path / f"{file.stem}.py"
  script.write_text(program, encoding="utf-8")
  done = subprocess.run(
    [sys.executable, str(script)],
    capture_output=True,
    text=True,
    cwd=root,
    env={**os.environ, "PYTHONPATH": str(root)},
  )
  assert done.returncode == 0, done.stderr
  assert "loss 0.693147" in done.stdout
