"""Every recipe on one model and one set of films, in one table.

    python benchmarks/recipes.py [tiny | smollm] [NAME ...]

or `make recipes`. Runs go to runs/recipes/VARIANT; what is finished is skipped,
and the stages that recipes begin with alike are made once. The table compares
the last policy of each on held-out films: recipes.md, .png and .html.
"""

import json
import pathlib
import subprocess
import sys

from xpo_jax import pipeline, recipe_table

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
  return subprocess.run(
    [sys.executable, "-m", "xpo_jax.cli", *command]
  ).returncode


def row(name: str, folder: pathlib.Path) -> dict | None:
  """Numbers of the final policy; None without an evaluation of policies."""
  path = folder / name / "evaluate" / "evaluation.json"
  if not path.is_file():
    return None
  means = json.loads(path.read_text(encoding="utf-8"))["means"]
  own = [numbers for policy, numbers in means.items() if policy != "sft"][-1]
  pick = lambda *keys: next((own[k] for k in keys if k in own), None)
  seconds = [
    json.loads(m.read_text(encoding="utf-8"))["seconds"]
    for m in (folder / name).glob(f"*/{pipeline.MANIFEST}")
    if not m.parent.is_symlink()
  ]
  return {
    "recipe": name,
    "gold": pick("gold"),
    "reward": pick("reward"),
    "kl": pick("KL to sft, k1"),
    "length": pick("words"),
    "distinct_n": pick("distinct-2"),
    "repetition": pick("repetition"),
    "minutes": sum(seconds) / 60,
  }


def main(argv: list[str]) -> int:
  variant = argv[0] if argv else "smollm"
  folder = ROOT / "runs" / "recipes" / variant
  folder.mkdir(parents=True, exist_ok=True)
  failed = []
  for name in argv[1:] or names():
    print(f"\n=== {name}", flush=True)
    if run(name, variant, folder):
      failed.append(name)
  found = [row(name, folder) for name in names() if (folder / name).is_dir()]
  rows = [r for r in found if r]
  if rows:
    recipe_table.show(rows)
    recipe_table.write(folder, rows, f"Recipes, {variant}")
    print(f"table: {folder / 'recipes.html'}")
  if failed:
    print(f"failed: {', '.join(failed)}")
  return len(failed)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
