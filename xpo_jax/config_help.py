"""The `--help` of the subcommands that take a config."""

import textwrap

from xpo_jax import judge_options
from xpo_jax.fields import FIELDS

# Flags of a subcommand's own.
_FURTHER = {
  "train": "--workdir=FOLDER [--allow-change=NAME,NAME] ",
  "run": "--workdir=FOLDER ",
  "compile": "--topology=POD[,POD] [--table=yes] [--hlo=FILE] ",
}


def show(name: str, words: str) -> None:
  """Prints what the subcommand `name` with a config does and takes."""
  print(f"{words}\n")
  print(
    f"usage: xpo {name} --config=FILE.py[:variant] {_FURTHER[name]}"
    "[--config.key=value ...]\n"
  )
  print("keys of a training config and their defaults:")
  for path, field in FIELDS.items():
    choices = f" ({' | '.join(field.choices)})" if field.choices else ""
    value = "" if field.default == "" else f"={field.default}"
    print(f"  {path + value:34} {field.help}{choices}")
  names = f"judge.name and gold.name: {', '.join(judge_options.USES)}."
  print("\n" + textwrap.fill(names, 79, break_on_hyphens=False))
  print("\nmethod.* also takes the keywords of the method: see `xpo methods`.")
