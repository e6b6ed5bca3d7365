"""Every recipe on one model and one set of films, in one table.

    python benchmarks/recipes.py [tiny | smollm] [NAME ...]

or `make recipes`. Runs go to runs/recipes/VARIANT; what is finished is skipped,
and the stages that recipes begin with alike are made once. The table compares
the last policy of each with the SFT policy on held-out films: recipes.md, .png
and .html.
"""

import pathlib
import signal
import subprocess
import sys

from xpo_jax import errors, flags, recipe_rows, recipe_table, recipes

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "recipes"
BASE = ("rloo", "instructgpt", "token_ppo", "nash_md")  # they share the most


def names() -> list[str]:
  """All recipes, those first whose stages others take."""
  every = sorted(path.stem for path in CONFIGS.glob("*.py"))
  return [n for n in BASE if n in every] + [n for n in every if n not in BASE]


def run(name: str, variant: str, folder: pathlib.Path) -> int:
  """`xpo run` of one recipe; its exit code."""
  done = [p for p in folder.iterdir() if p.is_dir() and p.name != name]
  reuse = [f"--reuse={','.join(map(str, sorted(done)))}"] if done else []
  config = f"--config={CONFIGS / name}.py:{variant}"
  command = ["run", config, f"--workdir={folder / name}", *reuse]
  child = subprocess.Popen([sys.executable, "-m", "xpo_jax.cli", *command])
  before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
  try:
    return child.wait()
  finally:
    signal.signal(signal.SIGTERM, before)


def table(variant: str, folder: pathlib.Path) -> None:
  """Shows and writes the table of all recipes with a run in `folder`."""
  configs = {
    name: flags.load_config_file(f"{CONFIGS / name}.py:{variant}")
    for name in names()
    if (folder / name).is_dir()
  }
  rows, notes = recipe_rows.rows(folder, configs)
  if rows:
    recipe_table.show(rows)
    path = recipe_table.write(folder, rows, f"Recipes, {variant}", notes)
    print("\n".join([*notes, f"table: {path}"]))


def main(argv: list[str]) -> int:
  variant = argv[0] if argv else "smollm"
  if variant not in recipes.VARIANTS:
    print(f"{variant!r}: name one of {', '.join(recipes.VARIANTS)} first")
    return 64
  folder = ROOT / "runs" / "recipes" / variant
  folder.mkdir(parents=True, exist_ok=True)
  failed = []
  for name in argv[1:] or names():
    print(f"\n=== {name}", flush=True)
    code = run(name, variant, folder)
    if code == errors.Exit.PREEMPTED:
      return code
    if code:
      failed.append(name)
  table(variant, folder)
  if failed:
    print(f"failed: {', '.join(failed)}")
  return len(failed)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
