"""Runs one `xpo` command on this host's GPUs.

    python launch/gpu_host.py --dry-run -- train \\
        --config=configs/dpo.py:smollm --workdir=runs/dpo

installs the pinned packages and jax for CUDA 12 into .venv, then starts the
command, again when it was preempted (exit code 75) or hung (76), and keeps its
output in --log. --dry-run prints the commands instead.
"""

import argparse
from collections.abc import Sequence
import contextlib
import pathlib
import shlex
import subprocess
import sys

import restart


def parse(argv: Sequence[str]) -> argparse.Namespace:
  """Flags before `--`, the xpo command after it."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--log", default="", help="file for the output")
  parser.add_argument("--restarts", type=int, default=100)
  parser.add_argument("--dry-run", action="store_true")
  parser.add_argument("command", nargs="+", help="-- SUBCOMMAND [flags]")
  return parser.parse_args(argv)


def commands(args: argparse.Namespace) -> list[list[str]]:
  """Install, then the command itself."""
  return [
    ["make", "venv"],
    [".venv/bin/pip", "install", "--quiet", ".[gpu]"],
    [".venv/bin/xpo", *args.command],
  ]


def main(argv: Sequence[str] | None = None) -> int:
  """Prints or runs the commands; the exit code of the first that fails."""
  args = parse(sys.argv[1:] if argv is None else argv)
  *install, command = commands(args)
  if args.dry_run:
    for line in (*install, command):
      print(shlex.join(line))
    return 0
  for line in install:
    code = subprocess.run(line).returncode
    if code:
      return code
  log = contextlib.nullcontext()
  if args.log:
    log = pathlib.Path(args.log).open("a", encoding="utf-8")
  with log as file:
    return restart.run(command, args.restarts, file)


if __name__ == "__main__":
  sys.exit(main())
