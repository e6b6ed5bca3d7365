"""The walk-through of the README, run as written but for the model's size."""

import os
import re
import subprocess
import sys

import pytest


def walk_through(root) -> str:
  text = (root / "README.md").read_text(encoding="utf-8")
  return "".join(part.split("```")[0] for part in text.split("```sh\n")[1:])


def test_it_is_short_and_names_real_files(root):
  script = walk_through(root)
  assert len(script.strip().splitlines()) <= 36
  for word in script.split():
    if "configs/" in word:
      assert (root / word.partition("=")[2]).is_file()


def test_the_twin_has_the_same_commands(root):
  both = [
    (root / name).read_text(encoding="utf-8")
    for name in ("README.md", "README.zh.md")
  ]
  english, chinese = (re.findall(r"(?:xpo|make) [a-z-]+", t) for t in both)
  assert english == chinese
  assert both[0].count("\n## ") == both[1].count("\n## ")


@pytest.mark.slow
def test_it_works(root, tmp_path):
  script = walk_through(root)
  for name in ("sft", "dpo", "rloo"):
    script = script.replace(f"{name}.py ", f"{name}.py:tiny ")
  script = script.replace("=smollm2-135m-instruct", "=tiny").replace(
    "source .venv/bin/activate\n", ""
  )
  (tmp_path / "configs").symlink_to(root / "configs")
  shim = tmp_path / "bin" / "xpo"
  shim.parent.mkdir()
  shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m xpo_jax.cli "$@"\n')
  shim.chmod(0o755)
  path = f"{shim.parent}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
  done = subprocess.run(
    ["bash", "-e", "-c", script],
    cwd=tmp_path,
    env={**os.environ, "PATH": path, "PYTHONPATH": str(root), "XLA_FLAGS": ""},
    capture_output=True,
    text=True,
    stdin=subprocess.DEVNULL,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert "What is 3 times 4?" in done.stdout
  assert (tmp_path / "my-model" / "model.safetensors").is_file()
  assert "my-rloo - my-sft" in done.stdout.replace("\n", " ")
  assert (tmp_path / "runs/my-rloo/report.html").is_file()
