"""The dry run of the TPU launcher: the commands as a shell would read them."""

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
  assert shlex.split(steps[-1]) == [".venv/bin/xpo", *wanted]
  assert steps[2] == "git checkout --quiet v1"


def test_a_command_is_required(root):
  code, lines = dry_run(root, *FLAGS)
  assert code == 2 and lines == []
