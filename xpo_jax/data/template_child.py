"""The process in which chat templates run; `template_process` starts it.

A program of its own: no module of ours, nothing third-party but jinja2. The
arguments are the folders of jinja2. One JSON line in, one JSON line out.
"""

import contextlib
import datetime
import json
import math
import re
import resource
import sys
import time

# `{% generation %}` marks what an assistant says. What is trained follows from
# the prompt's rendering instead, so the mark only has to parse.
_MARK = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")


class Refused(Exception):
  """The template called raise_exception."""


def main() -> None:
  """Reads the template, then conversations until the input ends."""
  sys.path += sys.argv[1:]
  source = sys.stdin.buffer
  start = json.loads(source.readline())
  reply, template = _guarded(lambda: _compile(start), start), None
  if "error" not in reply:
    reply, template = {"ready": True}, reply["value"]
  _write(reply)
  for line in source:
    request = json.loads(line)
    _write(_guarded(lambda r=request: _render(template, r, start), start))


def _write(reply: dict) -> None:
  sys.stdout.write(json.dumps(reply) + "\n")
  sys.stdout.flush()


def _compile(start: dict):
  from jinja2 import sandbox

  _bound(start["memory_bytes"])
  box = sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=["jinja2.ext.loopcontrols"],
  )
  # The same messages always give the same text.
  del box.filters["random"], box.globals["lipsum"]
  box.filters["tojson"] = _to_json
  box.globals["raise_exception"] = _refuse
  if start["date"]:
    date = datetime.datetime.fromisoformat(start["date"])
    box.globals["strftime_now"] = date.strftime
  text = _MARK.sub(
    lambda m: f"{{%{m[1]} {'endif' if m[2] else 'if true'} {m[3]}%}}",
    start["template"],
  )
  return box.from_string(text)


def _bound(memory: int) -> None:
  """Address space; no file can be written, no core dumped."""
  # macOS knows no limit of the address space.
  with contextlib.suppress(ValueError):
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
  for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
    resource.setrlimit(kind, (0, 0))


def _render(template, request: dict, start: dict) -> list[str]:
  texts = []
  for messages, cue in request["conversations"]:
    text = template.render(
      messages=messages,
      add_generation_prompt=cue,
      tools=None,
      documents=None,
      **start["variables"],
    )
    size = sum(len(m["content"]) for m in messages)
    if len(text) > start["output_chars"] + 2 * size:
      raise OverflowError
    texts.append(text)
  return texts


def _guarded(work, start: dict) -> dict:
  """{"value": of work()} or {"error": its kind, "message"}."""
  _, hard = resource.getrlimit(resource.RLIMIT_CPU)
  # No handler: the signal ends the process even inside of C.
  soft = math.ceil(time.process_time() + start["cpu_seconds"])
  resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
  try:
    return {"value": work()}
  except Refused as e:
    return {"error": "refused", "message": str(e)[:200]}
  except MemoryError:
    return {"error": "memory", "message": ""}
  except OverflowError:
    return {"error": "output", "message": ""}
  except Exception as e:  # a template can raise anything
    return {"error": "failed", "message": f"{type(e).__name__}: {e}"[:200]}


def _refuse(message) -> None:
  raise Refused(str(message))


def _to_json(value, ensure_ascii=False, indent=None, **kwargs) -> str:
  """Without the HTML escapes of jinja2's own filter."""
  return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **kwargs)


if __name__ == "__main__":
  main()
