"""Starts `xpo` over and over: imports once, then forks a process a command.

Reads lines {"argv": [..], "env": {..}, "log": file} from stdin, with
"file_bytes" if no file may become longer and "limits" {"RLIMIT_..": number} if
there are others. Answers with {"pid": n}; when that process ends, with
{"pid": n, "code": its exit code}. jax has no threads and no devices before the
fork.
"""

import gc
import json
import os
import resource
import select
import signal
import sys
import warnings


def child(job) -> None:
  """The forked process: becomes `xpo ARGV`, and never returns."""
  log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  os.dup2(log, 1), os.dup2(log, 2)
  os.environ.update(job["env"])
  if "file_bytes" in job:  # every longer write fails, as on a full disk
    limit = (job["file_bytes"], resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
  for name, limit in job.get("limits", {}).items():
    resource.setrlimit(getattr(resource, name), (limit, limit))
  signal.set_wakeup_fd(-1)
  signal.signal(signal.SIGCHLD, signal.SIG_DFL)
  from xpo_jax import cli

  code, sys.argv = 1, ["xpo", *job["argv"]]
  try:
    code = cli.main()
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
  sys.exit(code)  # an ordinary end: threads are joined, hooks run


def serve() -> None:
  """Reads commands and reaps processes until stdin ends."""
  # A handler, so that the end of a child wakes `select`.
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  signal.set_wakeup_fd(writer)
  signal.signal(signal.SIGCHLD, lambda *_: None)
  say = lambda **what: print(json.dumps(what), flush=True)
  buffer = b""
  while True:
    ready, _, _ = select.select([0, reader], [], [])
    if reader in ready:
      os.read(reader, 4096)
      reap(say)
    if 0 not in ready:
      continue
    more = os.read(0, 65536)
    if not more:
      return
    *lines, buffer = (buffer + more).split(b"\n")
    for line in lines:
      pid = os.fork()
      if not pid:
        child(json.loads(line))
      say(pid=pid)


def reap(say) -> None:
  """Reports every process that has ended."""
  while True:
    try:
      pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
      return
    if not pid:
      return
    say(pid=pid, code=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
  warnings.simplefilter("ignore")
  import jax  # noqa: F401

  from xpo_jax import cli, pipeline, train  # noqa: F401

  gc.freeze()
  serve()
