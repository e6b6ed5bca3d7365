"""Runs one `xpo` command on all hosts of a Cloud TPU slice.

    python launch/tpu_pod.py --dry-run --name=align --zone=us-west4-a \\
        --repository=https://example.org/xpo_jax.git --revision=v0.1.0 \\
        -- train --config=configs/dpo.py:smollm --workdir=/mnt/runs/dpo

asks for a queued resource, waits until it is there, installs the repository on
every host and starts the command. A run that was preempted after saving (exit
code 75) or hung (76) starts again, on a new slice if the old one is gone. At
the end the hosts' logs are copied into --logs. --dry-run prints the commands
instead, one a line, ready to paste. The slice is kept: delete it with the last
line printed.
"""

import argparse
from collections.abc import Sequence
import shlex
import subprocess
import sys
import time

import restart

POLL_SECONDS = 30
READY, FAILED = "ACTIVE", ("FAILED",)
GONE = ("SUSPENDED", "SUSPENDING", "")  # preempted, or deleted
LOST = 255  # ssh's code for a connection that broke
LOG = "xpo_logs"  # folder on the hosts


def parse(argv: Sequence[str]) -> argparse.Namespace:
  """Flags before `--`, the xpo command after it."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--name", required=True, help="of the slice")
  parser.add_argument("--zone", required=True)
  parser.add_argument("--project", default="", help="gcloud's, if empty")
  parser.add_argument("--type", default="v5litepod-16")
  parser.add_argument("--runtime", default="v2-alpha-tpuv5-lite")
  parser.add_argument("--spot", action="store_true", help="may be preempted")
  parser.add_argument("--repository", required=True, help="git URL")
  parser.add_argument("--revision", required=True, help="tag or commit")
  parser.add_argument("--restarts", type=int, default=100)
  parser.add_argument("--logs", default="logs", help="folder for hosts' logs")
  parser.add_argument("--dry-run", action="store_true")
  parser.add_argument("command", nargs="+", help="-- SUBCOMMAND [flags]")
  return parser.parse_args(argv)


def remote_script(args: argparse.Namespace) -> str:
  """What every host runs: clone, install once, start, keep the output."""
  folder = "xpo_jax"
  command = f".venv/bin/xpo {shlex.join(args.command)}"
  logged = f"{command} 2>&1 | tee -a ~/{LOG}/$(hostname).log"
  steps = [
    f"test -d {folder} || git clone --quiet "
    f"{shlex.quote(args.repository)} {folder}",
    f"cd {folder}",
    f"git checkout --quiet {shlex.quote(args.revision)}",
    "make venv",
    ".venv/bin/pip install --quiet '.[tpu]'",
    f"mkdir -p ~/{LOG}",
    # tee would hide the exit code, which says whether to start again.
    f"bash -o pipefail -c {shlex.quote(logged)}",
  ]
  return " && ".join(steps)


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
  """The gcloud commands by name, in the order of their use."""
  gcloud = ["gcloud", "compute", "tpus"]
  where = [f"--zone={args.zone}"]
  if args.project:
    where.append(f"--project={args.project}")
  queued = [*gcloud, "queued-resources"]
  return {
    "create": [
      *queued,
      "create",
      args.name,
      f"--node-id={args.name}",
      f"--accelerator-type={args.type}",
      f"--runtime-version={args.runtime}",
      *(["--spot"] if args.spot else []),
      *where,
    ],
    "wait": [
      *queued,
      "describe",
      args.name,
      "--format=value(state.state)",
      *where,
    ],
    "run": [
      *gcloud,
      "tpu-vm",
      "ssh",
      args.name,
      "--worker=all",
      f"--command={remote_script(args)}",
      *where,
    ],
    "logs": [
      *gcloud,
      "tpu-vm",
      "scp",
      "--recurse",
      "--worker=all",
      f"{args.name}:~/{LOG}",
      args.logs,
      *where,
    ],
    "delete": [*queued, "delete", args.name, "--force", "--quiet", *where],
  }


def main(argv: Sequence[str] | None = None) -> int:
  """Prints or runs the commands; the exit code of the first that fails."""
  args = parse(sys.argv[1:] if argv is None else argv)
  todo = commands(args)
  if args.dry_run:
    for command in todo.values():
      print(shlex.join(command))
    return 0
  code = restart.run(
    todo["run"],
    args.restarts,
    before=lambda: make_ready(args.name, todo),
    again=lambda code: code in (*restart.AGAIN, LOST),
  )
  subprocess.run(todo["logs"])
  print(f"delete it with: {shlex.join(todo['delete'])}")
  return code


def make_ready(name: str, todo: dict[str, list[str]]) -> int:
  """Waits for the slice, made anew if it is gone; 0 when it is there."""
  asked_for = False
  while True:
    asked = subprocess.run(
      todo["wait"],
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    state = asked.stdout.strip()
    if state == READY:
      return 0
    if state in FAILED:
      print(f"{name}: {state}", file=sys.stderr)
      return 1
    if state in GONE and not asked_for:
      if state:
        subprocess.run(todo["delete"])
      code = subprocess.run(todo["create"]).returncode
      if code:
        return code
      asked_for = True
    else:
      time.sleep(POLL_SECONDS)


if __name__ == "__main__":
  sys.exit(main())
