"""The box around chat templates: limits, restarts, one process, no leaks."""

import ast
import dataclasses
import gc
import os
from pathlib import Path
import resource
import signal
import subprocess
import sys
import time

import pytest

from tests.data.chat_families import FAMILIES
from xpo_jax.data import template_process, templates
from xpo_jax.data.records import Group, Message
from xpo_jax.data.template_process import Limits, Renderer
from xpo_jax.errors import Exit, XpoError
from xpo_jax.types import Feedback

HI = ((Message("user", "Hi"),), True)
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
ENDLESS = f"{LOOP}{{% endfor %}}"


@pytest.fixture
def make():
  """Renderers of a template that are closed after the test."""
  made = []

  def renderer(source, **limits):
    box = Renderer(source, "m/chat.jinja", {}, limits=Limits(**limits))
    made.append(box)
    return box

  yield renderer
  for box in made:
    box.close()


def error(box, *conversations):
  with pytest.raises(XpoError) as caught:
    box.render(conversations or [HI])
  assert caught.value.code == Exit.CHECKPOINT
  text = str(caught.value)
  assert text.startswith("m/chat.jinja: the chat template ")
  assert text.endswith("; mend it, or use data.template='plain'")
  assert "\n" not in text
  return text


def test_the_limits_are_those_of_the_contract():
  """R20: 2 s, 256 MiB, 1 MB out; the wall clock only for what sleeps."""
  assert dataclasses.asdict(Limits()) == {
    "cpu_seconds": 2.0,
    "wall_seconds": 30.0,
    "memory_bytes": 268435456,
    "output_chars": 1048576,
  }


def test_t11_a_template_without_end_is_killed_inside_of_c_too(make):
  # Not a constant: that would be worked out before any row is there.
  box = make(
    "{{ messages[0].content }}{% if messages[0].content == 'hang' %}"
    "{{ (messages | length + 6) ** (7 ** 9) }}{% endif %}",
    cpu_seconds=0.1,
  )
  hang = ((Message("user", "hang"),), True)
  assert "does not end in 0.1 s of CPU time" in error(box, hang)
  # It starts again for the next one, as a chat in the terminal wants it.
  assert box.render([HI]) == ["Hi"]


def test_t11_only_the_row_that_hangs_is_named():
  template = FAMILIES["chatml"].template + (
    f"{{% if messages[0].content == 'hang' %}}{ENDLESS}{{% endif %}}"
  )
  tokenizer = FAMILIES["chatml"].tokenizer(
    chat_template=template, template_file="m/chat_template.jinja"
  )
  # The renderer that the template's users share, with less time.
  name, eos = tokenizer.template_file, "<|im_end|>"
  box = template_process.shared(template, name, "", eos, "")
  box.limits = Limits(cpu_seconds=0.1)
  rows = [
    Group(f"f:{i}", p, ("b",), (1.0,), Feedback.DEMONSTRATION)
    for i, p in enumerate(["a", "hang", "b"])
  ]
  with pytest.raises(XpoError) as caught:
    templates.tokenize(rows, tokenizer, "chat", 64, 64)
  assert caught.value.code == Exit.DATA
  assert str(caught.value) == (
    "f:1: m/chat_template.jinja: the chat template does not end in 0.1 s of CPU"
    " time; mend it, or use data.template='plain'"
  )


def test_t12_memory(make):
  assert "needs more than 256 MiB" in error(make("{{ 'a' * 10 ** 9 }}"))
  grow = "{% set n = namespace(t='aaaa') %}{% for i in range(40) %}"
  grow += "{% set n.t = n.t ~ n.t %}{% endfor %}"
  assert "needs more than 64 MiB" in error(make(grow, memory_bytes=64 << 20))


def test_t12_output_is_measured_with_what_came_in(make):
  # "Hi" is two characters, which count twice.
  (text,) = make("{{ 'a' * 1048580 }}").render([HI])
  assert len(text) == 1048580
  assert "writes more than 1,048,576 char" in error(make("{{ 'a' * 1048581 }}"))
  long = ((Message("user", "é" * 900_000),), False)
  box = make("{{ messages[0].content * 2 }}")
  assert box.render([long]) == ["é" * 1_800_000]
  tight = make("{{ messages[0].content * 3 }}", output_chars=10)
  assert tight.render([((Message("user", "a" * 10),), False)]) == ["a" * 30]
  assert "writes more" in error(tight, ((Message("user", "a" * 11),), False))


def test_a_process_that_stands_still_is_killed(make):
  box = make("{{ messages[0].content }}", wall_seconds=0.2)
  box.limits = Limits()
  assert box.render([HI]) == ["Hi"]
  first = box._process
  os.kill(first.pid, signal.SIGSTOP)
  box.limits = Limits(wall_seconds=0.2)
  # More than a pipe holds: neither writing nor reading may block.
  long = ((Message("user", "a" * 200_000),), True)
  assert "gives no answer in 0.2 s" in error(box, long)
  assert first.returncode == -signal.SIGKILL
  box.limits = Limits()
  assert box.render([HI]) == ["Hi"]


def test_a_process_that_somebody_kills_is_told(make):
  box = make("{{ messages[0].content }}")
  box.render([HI])
  box._process.kill()
  box._process.wait()
  assert "ended its process (signal 9)" in error(box)


def test_one_process_for_all_rows_of_a_template(monkeypatch):
  started = []
  real = subprocess.Popen

  def popen(*args, **kwargs):
    started.append(args)
    return real(*args, **kwargs)

  monkeypatch.setattr(subprocess, "Popen", popen)
  template = FAMILIES["gemma"].template + "{# counted #}"
  tokenizer = FAMILIES["gemma"].tokenizer(chat_template=template)
  for split in ("train", "held-out"):
    rows = [
      Group(f"{split}:{i}", f"q{i}", ("b",), (1.0,), Feedback.DEMONSTRATION)
      for i in range(50)
    ]
    assert len(templates.tokenize(rows, tokenizer, "chat", 64, 64)[0]) == 50
  assert len(started) == 1
  templates.make_template(tokenizer, "plain")
  assert len(started) == 1


def test_what_the_child_is(make, monkeypatch):
  """No secrets, no session, no jax, no files; it costs little."""
  monkeypatch.setenv("XPO_SECRET", "canary")
  box = make("{{ messages[0].content }}")
  box.render([HI])
  pid = box._process.pid
  read = lambda name: Path(f"/proc/{pid}/{name}").read_bytes()
  assert b"canary" not in read("environ") + read("cmdline")
  assert os.getsid(pid) == pid
  maps = read("maps").decode()
  assert "markupsafe" in maps and "jaxlib" not in maps and "numpy" not in maps
  (resident,) = [x for x in read("status").splitlines() if b"VmRSS" in x]
  assert int(resident.split()[1]) < 40_000  # KiB
  limit = lambda kind: resource.prlimit(pid, kind)
  assert limit(resource.RLIMIT_AS) == (256 << 20, 256 << 20)
  assert limit(resource.RLIMIT_FSIZE) == (0, 0)
  # Armed anew with each request: 2 s more than it has used, in whole seconds.
  assert 2 <= limit(resource.RLIMIT_CPU)[0] <= 4
  assert box._process.stderr is None


def test_the_child_s_program_imports_nothing_of_ours():
  source = Path(template_process.__file__).with_name("template_child.py")
  names = set()
  for node in ast.walk(ast.parse(source.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
      names.add(node.module)
  assert names - set(sys.stdlib_module_names) == {"jinja2"}


ORPHAN = """
import sys
from xpo_jax.data.records import Message
from xpo_jax.data.template_process import Renderer
box = Renderer("{{ messages[0].content }}", "t", {})
print(box.render([((Message("user", "Hi"),), True)])[0], box._process.pid)
sys.stdout.flush()
sys.stdin.read()
"""


def test_the_child_closes_with_its_parent():
  parent = subprocess.Popen(
    [sys.executable, "-c", ORPHAN],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
  )
  said, pid = parent.stdout.readline().split()
  assert said == "Hi"
  parent.kill()
  parent.communicate()
  end = time.monotonic() + 30
  while running(pid) and time.monotonic() < end:
    time.sleep(0.01)
  assert not running(pid)


def test_the_child_closes_with_its_renderer():
  box = Renderer("{{ messages[0].content }}", "t", {})
  box.render([HI])
  process = box._process
  del box
  gc.collect()
  assert process.returncode == -signal.SIGKILL
  assert process.stdin.closed and process.stdout.closed


def running(pid):
  """A zombie whose new parent has not yet asked for it does not run."""
  try:
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
  except (FileNotFoundError, ProcessLookupError):
    return False
  return state != "Z"
