"""Every method has a recipe; every recipe loads, validates and says how to run.

Nothing here names a method: a new pair of files is covered at once.
"""

import ast
import pathlib
import shlex

import pytest

from xpo_jax import config, flags, methods, pipeline, recipes

FOLDER = pathlib.Path(__file__).parents[1] / "configs"
FILES = sorted(FOLDER.rglob("*.py"))
CASES = [
  (file, v)
  for file in FILES
  for v in ("", *(config if file.parent == FOLDER else recipes).VARIANTS)
]


@pytest.mark.parametrize("name", methods.names())
def test_every_method_has_a_config(name):
  chosen = flags.load_config_file(str(FOLDER / f"{name}.py:tiny"))
  assert chosen.method.name == name
  # All keywords of the loss are there, so that each can be set by a flag.
  assert set(chosen.method) == {"name", *methods.get(name).keywords}


@pytest.mark.parametrize(
  "file, variant", CASES, ids=lambda v: getattr(v, "stem", v or "default")
)
def test_every_config_is_valid(file, variant, tmp_path):
  path = f"{file}:{variant}" if variant else str(file)
  loaded = flags.load_config_file(path)
  if "stages" in loaded:
    stages = pipeline.resolve(loaded, tmp_path)
    for name, stage in stages.items():
      pipeline.check(name, stage)
      if "method" in stage:
        config.validate(stage, devices=1)
    assert any("method" in stage for stage in stages.values())
    return
  config.validate(loaded, devices=1)
  again = config.from_json(config.to_json(loaded))
  assert again.to_dict() == loaded.to_dict()


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_the_default_variant_is_smollm(file):
  plain = flags.load_config_file(str(file))
  named = flags.load_config_file(f"{file}:smollm")
  assert plain.to_dict() == named.to_dict()


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_docstring_names_paper_and_command(file, root, monkeypatch):
  monkeypatch.chdir(root)
  text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
  commands = [
    shlex.split(line)
    for line in text.splitlines()
    if line.startswith(("    xpo ", "    make "))
  ]
  assert commands, f"{file.name}: no indented `xpo ...` line"
  for tool, subcommand, *argv in commands:
    if tool == "make":
      makefile = (root / "Makefile").read_text(encoding="utf-8")
      recipe = makefile.partition(f"\n{subcommand}:")[2].partition("\n\n")[0]
      assert f"configs/{file.name}" in recipe
      continue
    loaded, _ = flags.parse(argv)
    assert subcommand == ("run" if "stages" in loaded else "train")
    assert any(f"={file.relative_to(root)}" in flag for flag in argv)
  if file.parent == FOLDER and file.stem in methods.names():
    assert methods.get(file.stem).paper in text
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 50
