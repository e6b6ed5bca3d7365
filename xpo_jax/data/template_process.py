"""Chat templates run in a box: a child process with limits, one for a run.

A template is foreign code. jinja2's sandbox keeps it from Python's inside; the
process keeps a loop without end or a text of a gigabyte from us.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import functools
import json
import os
from pathlib import Path
import select
import signal
import subprocess
import sys
import time
import weakref

from xpo_jax.data.records import Message
from xpo_jax.errors import XpoError, checkpoint_error

Conversation = tuple[
  tuple[Message, ...], bool
]  # turns; ask for the next answer

_CHILD = Path(__file__).with_name("template_child.py")
_START_SECONDS = 60.0  # python itself, on a machine that is busy


@dataclasses.dataclass(frozen=True)
class Limits:
  """What one request may take."""

  cpu_seconds: float = 2.0  # kept to a second
  wall_seconds: float = 30.0  # more than CPU: the machine may be busy
  memory_bytes: int = 256 << 20  # of the whole process
  output_chars: int = 1 << 20  # and twice the contents


@dataclasses.dataclass
class Renderer:
  """A template that renders conversations to text.

  `name` says in messages where the template comes from. The process starts at
  the first call, and again after one that had to be killed.
  """

  source: str
  name: str
  variables: dict[str, str]  # bos_token, eos_token
  date: str = ""  # what strftime_now writes; empty: it does not exist
  limits: Limits = Limits()
  _process: subprocess.Popen | None = None

  def render(self, conversations: Sequence[Conversation]) -> list[str]:
    """One text a conversation.

    Raises:
      XpoError: (66) the template is wrong, refuses a conversation, or takes
        more than the limits; the line names the template's file.
    """
    if self._process is None:
      self._start()
    turns = lambda ms: [{"role": m.role, "content": m.content} for m in ms]
    request = {"conversations": [[turns(m), cue] for m, cue in conversations]}
    return self._ask(request, self.limits.wall_seconds)["value"]

  def close(self) -> None:
    """Ends the process; the next call of `render` starts another."""
    if self._process is not None:
      _stop(self._process)
      self._process = None

  def _start(self) -> None:
    command = [sys.executable, "-I", "-S", "-X", "utf8", str(_CHILD)]
    keep = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # python's own, if moved
    self._process = subprocess.Popen(
      command + _folders(),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      bufsize=0,
      env={k: os.environ[k] for k in keep if k in os.environ},
      start_new_session=True,  # Ctrl-C is ours
    )
    os.set_blocking(self._process.stdin.fileno(), False)
    # Also when this process ends; if that is killed, the pipe's end is enough.
    weakref.finalize(self, _stop, self._process)
    limits = dataclasses.asdict(self.limits)
    first = {"template": self.source, "variables": self.variables}
    self._ask(first | {"date": self.date} | limits, _START_SECONDS)

  def _ask(self, request: dict, seconds: float) -> dict:
    line = json.dumps(request).encode("ascii") + b"\n"
    try:
      reply = json.loads(_exchange(self._process, line, seconds))
    except TimeoutError:
      self.close()
      raise self._error(f"gives no answer in {seconds:g} s") from None
    except EOFError:
      process, self._process = self._process, None
      _stop(process)
      raise self._error(_death(process.returncode, self.limits)) from None
    except BaseException:  # Ctrl-C: half a reply may be left in the pipe
      self.close()
      raise
    if "error" in reply:
      if "template" in request:
        self.close()
      raise self._error(_words(reply, self.limits))
    return reply

  def _error(self, what: str) -> XpoError:
    mend = "mend it, or use data.template='plain'"
    if "'strftime_now' is undefined" in what:
      mend = (
        "it writes today's date: pin one with data.template_date=2024-07-26"
      )
    return checkpoint_error(f"{self.name}: the chat template {what}; {mend}")


@dataclasses.dataclass
class Texts:
  """The renderer's last texts: what is asked for ahead comes in one answer."""

  renderer: Renderer
  _texts: dict[Conversation, str] = dataclasses.field(default_factory=dict)

  def get(self, messages: tuple[Message, ...], cue: bool) -> str:
    """The text of one conversation; raises what `Renderer.render` does."""
    found = self._texts.get((messages, cue))
    if found is None:
      found = self.renderer.render([(messages, cue)])[0]
      self._keep({(messages, cue): found})
    return found

  def ask_ahead(self, conversations: Sequence[Conversation]) -> None:
    """Renders all of them at once; an error waits for its own conversation."""
    new = [c for c in dict.fromkeys(conversations) if c not in self._texts]
    with contextlib.suppress(XpoError):
      found = self.renderer.render(new) if new else []
      self._keep(dict(zip(new, found, strict=True)))

  def _keep(self, texts: dict[Conversation, str]) -> None:
    if len(self._texts) > 1024:  # long texts: only the last ones
      self._texts.clear()
    self._texts |= texts


@functools.lru_cache(4)
def shared(
  source: str, name: str, bos: str, eos: str, date: str = ""
) -> Renderer:
  """One process for all who use this template."""
  return Renderer(source, name, {"bos_token": bos, "eos_token": eos}, date)


@functools.cache
def _folders() -> list[str]:
  """Where the child finds jinja2, however it was installed."""
  import jinja2
  import markupsafe

  return [str(Path(m.__file__).parents[1]) for m in (jinja2, markupsafe)]


def _stop(process: subprocess.Popen) -> None:
  process.kill()
  process.wait()
  process.stdin.close()
  process.stdout.close()


def _exchange(process: subprocess.Popen, line: bytes, seconds: float) -> bytes:
  """Writes a line and reads one, neither for longer than that.

  Raises:
    TimeoutError: it took longer.
    EOFError: the process has ended.
  """
  write, read = process.stdin.fileno(), process.stdout.fileno()
  end = time.monotonic() + seconds
  left, reply = memoryview(line), bytearray()
  poll = select.poll()
  poll.register(write, select.POLLOUT)
  poll.register(read, select.POLLIN)
  while not reply.endswith(b"\n"):
    ready = dict(poll.poll(max(0.0, end - time.monotonic()) * 1000))
    if not ready:
      raise TimeoutError
    if write in ready:
      try:
        left = left[os.write(write, left) :]
      except BrokenPipeError:
        raise EOFError from None
      if not left:
        poll.unregister(write)
    if read in ready:
      part = os.read(read, 1 << 16)
      if not part:
        raise EOFError
      reply += part
  return bytes(reply)


def _death(code: int, limits: Limits) -> str:
  if code == -signal.SIGXCPU:
    return f"does not end in {limits.cpu_seconds:g} s of CPU time"
  how = f"signal {-code}" if code < 0 else f"exit code {code}"
  return f"ended its process ({how})"


def _words(reply: dict, limits: Limits) -> str:
  message = " ".join(reply["message"].split())
  return {
    "refused": f"refuses this conversation: {message}",
    "memory": f"needs more than {limits.memory_bytes >> 20} MiB",
    "output": f"writes more than {limits.output_chars:,} characters",
    "failed": f"cannot be rendered ({message})",
  }[reply["error"]]
