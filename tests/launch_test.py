"""The launchers: dry runs as a shell reads them, restarts with stand-ins."""

import os
import shlex
import subprocess
import sys

FLAGS = (
  "--name=a --zone=z --repository=https://example.org/r.git --revision=v1"
).split()


def dry_run(root, *args):
  script = root / "launch" / "tpu_pod.py"
  done = subprocess.run(
    [sys.executable, str(script), "--dry-run", *args],
    capture_output=True,
    text=True,
  )
  return done.returncode, [shlex.split(x) for x in done.stdout.splitlines()]


def test_the_commands_and_their_order(root):
  code, lines = dry_run(root, *FLAGS, "--project=p", "--spot", "--", "methods")
  assert code == 0
  assert [" ".join(line[:5]) for line in lines] == [
    "gcloud compute tpus queued-resources create",
    "gcloud compute tpus queued-resources describe",
    "gcloud compute tpus tpu-vm ssh",
    "gcloud compute tpus tpu-vm scp",
    "gcloud compute tpus queued-resources delete",
  ]
  assert all({"--zone=z", "--project=p"} <= set(line) for line in lines)
  assert "--spot" in lines[0] and "--node-id=a" in lines[0]
  assert "--worker=all" in lines[2]


def test_arguments_survive_two_shells(root):
  wanted = ["train", "--config=configs/dpo.py:tiny", "--workdir=/m/my runs/$x"]
  _, lines = dry_run(root, *FLAGS, "--", *wanted)
  (remote,) = [x for x in lines[2] if x.startswith("--command=")]
  steps = remote.removeprefix("--command=").split(" && ")
  assert steps[2] == "git checkout --quiet v1"
  shell = shlex.split(steps[-1])
  assert shell[:-1] == ["bash", "-o", "pipefail", "-c"]
  command, log = shell[-1].split(" 2>&1 | ")
  assert shlex.split(command) == [".venv/bin/xpo", *wanted]
  assert log == "tee -a ~/xpo_logs/$(hostname).log"


def test_a_command_is_required(root):
  code, lines = dry_run(root, *FLAGS)
  assert code == 2 and lines == []


def stand_in(folder, name, script):
  """A program that answers in the place of `name`."""
  path = folder / name
  path.write_text(f"#!/bin/sh\n{script}\n")
  path.chmod(0o755)


def test_a_preempted_run_starts_again_on_a_new_slice(root, tmp_path):
  """State by state: none, active (run ends with 75), suspended, active."""
  states = tmp_path / "states"
  states.write_text("\nACTIVE\nACTIVE\nSUSPENDED\nACTIVE\n")
  codes = tmp_path / "codes"
  codes.write_text("76\n255\n3\n")
  pop = 'head -n 1 "$1"; sed -i 1d "$1"'
  stand_in(tmp_path, "pop", pop)
  stand_in(
    tmp_path,
    "gcloud",
    f"""
echo "$3 $4" >> {tmp_path}/calls
case "$4" in
  describe) {tmp_path}/pop {states} ;;
  ssh) exit $({tmp_path}/pop {codes}) ;;
esac""",
  )
  env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
  script = root / "launch" / "tpu_pod.py"
  done = subprocess.run(
    [sys.executable, str(script), *FLAGS, "--", "methods"],
    capture_output=True,
    text=True,
    env=env,
    timeout=60,
  )
  assert done.returncode == 3, done.stderr
  calls = (tmp_path / "calls").read_text().split("\n")[:-1]
  assert [c.split()[1] for c in calls] == (
    # asked, made, there: preempted; there: lost; gone, made anew: the end.
    "describe create describe ssh describe ssh "
    "describe delete create describe ssh scp"
  ).split()
  assert "delete it with: gcloud" in done.stdout


def test_a_gpu_host_starts_again_and_keeps_the_output(root, tmp_path):
  work = tmp_path / "work"
  (work / ".venv" / "bin").mkdir(parents=True)
  stand_in(tmp_path, "make", "exit 0")
  stand_in(work / ".venv" / "bin", "pip", "exit 0")
  stand_in(
    work / ".venv" / "bin",
    "xpo",
    'echo "run $*"; test -e seen && exit 4; touch seen; exit 75',
  )
  env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
  script = str(root / "launch" / "gpu_host.py")
  command = [sys.executable, script, "--log=out.log", "--", "train", "--a=b c"]
  done = subprocess.run(
    command, capture_output=True, text=True, env=env, cwd=work, timeout=60
  )
  assert done.returncode == 4, done.stderr
  assert (work / "out.log").read_text() == "run train --a=b c\n" * 2
  dry = subprocess.run(
    [sys.executable, script, "--dry-run", "--", "train", "--a=b c"],
    capture_output=True,
    text=True,
  )
  lines = [shlex.split(x) for x in dry.stdout.splitlines()]
  assert lines[-1] == [".venv/bin/xpo", "train", "--a=b c"]
  assert lines[1][-1] == ".[gpu]"
