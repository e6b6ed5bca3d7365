"""A judge that keeps a log of what it was asked, and breaks when it is told to.

`xpo train --config.judge.name=function
--config.judge.source=tests.online.scripted:score` in this process or another
one: what is asked of it stands in environment variables.
"""

import functools
import hashlib
import importlib
import json
import os
import signal

LOG, BREAK = "XPO_TEST_LOG", "XPO_TEST_BREAK"
START = "start"
# Place -> (module, function): the call of that number breaks, before it has
# done anything but for samples, which are drawn and then lost.
PLACES = {
  "sampling": ("xpo_jax.online.draw", "policy"),
  "scoring": ("xpo_jax.online.columns", "score"),
  "saving": ("xpo_jax.checkpoint", "save"),
}
# A small on-policy run that asks this judge.
RUN = {
  "rollout__completions": 2,
  "batch__row_length": 64,
  "data__max_prompt_length": 32,
  "data__max_completion_length": 8,
  "judge__name": "function",
  "judge__source": "tests.online.scripted:score",
  "judge__max_invalid": 0.5,
}


class Broken(BaseException):
  """Stands for the end of the process, where the process is the test's own."""


def score(prompts, texts):
  """Longer is better, up to 20; logs a digest of the texts."""
  whole = hashlib.sha256(json.dumps([prompts, texts]).encode()).hexdigest()
  place, _, call = os.environ.get(BREAK, "").partition(":")
  before = asked()[-1]
  new = whole not in before  # a judge's first batch is asked for twice
  if place == "judging" and new and len(before) + 1 == int(call):
    end()
  _log(whole)
  return [min(20, len(t)) / 10 + 0.01 * len(set(t)) for t in texts]


def refuse(prompts, texts):
  """A judge that raises, on whatever process it is asked."""
  _log("refuse")
  raise ValueError("no verdict")


def end():
  """The process is killed; in the test's own, `Broken` is raised."""
  if os.environ.get("XPO_TEST_KILL"):
    os.kill(os.getpid(), signal.SIGKILL)
  raise Broken(os.environ[BREAK])


def patched(patch=setattr) -> None:
  """Makes the call that BREAK = "place:call" names break; 1 is the first."""
  place, _, call = os.environ.get(BREAK, "").partition(":")
  _log(START)
  if place not in PLACES:
    return
  module, name = PLACES[place]
  module, left = importlib.import_module(module), [int(call)]
  real = getattr(module, name)

  @functools.wraps(real)
  def wrapper(*args, **keywords):
    left[0] -= 1
    if left[0]:
      return real(*args, **keywords)
    if place == "sampling":
      real(*args, **keywords)
    end()

  patch(module, name, wrapper)


def asked() -> list[list[str]]:
  """Digests of every start, in order; the check of the first is left out."""
  out = []
  with open(os.environ[LOG]) as f:
    for line in f.read().split():
      if line == START:
        out.append([])
      elif out[-1][-1:] != [line] or len(out[-1]) > 1:
        out[-1].append(line)
  return out


def _log(line: str) -> None:
  with open(os.environ[LOG], "a") as f:
    f.write(line + "\n")
