"""The judge section of a config: its keys, and all that can be wrong there.

Nothing is loaded and nobody is asked; `judge_config` makes the judge. Imports
no jax before a judge is named, and nothing of the upper floors, so that the
checks of a config may import it.
"""

from collections.abc import Mapping
import contextlib
import difflib
import importlib.machinery
import importlib.util
import math
import os
import re
import sys
from typing import Any

from ml_collections import ConfigDict

from xpo_jax.errors import XpoError, usage_error

DEFAULTS: dict[str, Any] = {
  "name": "",
  "source": "",
  "template": "auto",
  "reference": "",
  "beta": 0.0,
  "principles": "",
  "reason": False,
  "votes": 1,
  "samples": 3,
  "max_invalid": 0.05,
  "guard": True,
}
TEMPLATES = ("auto", "plain", "chat")
URL, KEY = "XPO_JUDGE_URL", "XPO_JUDGE_KEY"  # environment, of remote judges
_MODEL = ("source", "template", "max_invalid", "guard")
# Name -> the keys that it uses; others must keep their defaults.
USES: dict[str, tuple[str, ...]] = {
  "reward_model": _MODEL,
  "implicit": (*_MODEL, "reference", "beta"),
  "preference_model": _MODEL,
  "pairwise": _MODEL,
  "rating": _MODEL,
  "principles": (*_MODEL, "principles", "reason", "votes"),
  "additive": (*_MODEL, "samples"),
  "verdict_rating": (*_MODEL, "samples"),
  "verdict_pair": _MODEL,
  "sentiment": (),
  "length": ("source",),
  "format": ("source",),
  "exact_match": ("source",),
  "final_answer": ("source",),
  "function": ("source", "max_invalid"),
  "remote_rating": ("source", "samples", "max_invalid", "guard"),
  "remote_pair": ("source", "max_invalid", "guard"),
}
# Those that compare two texts; the others score one.
PAIRS = ("preference_model", "pairwise", "principles", "verdict_pair",
         "remote_pair")  # fmt: skip
_SOURCES = {
  "reward_model": "a run of a reward model, or its export",
  "implicit": "a run that trained a policy, or a policy with a reference",
  "preference_model": "a run of rm_pairwise, or its export",
  "length": "LOW-HIGH, words",
  "format": "a regular expression",
  "exact_match": "a JSONL file of prompt and answer",
  "final_answer": "a JSONL file of prompt and answer",
  "function": "module:function",
  "remote_rating": "the model's name at the endpoint",
  "remote_pair": "the model's name at the endpoint",
}
_KINDS = {bool: "True or False", int: "an integer", float: "a number",
          str: "a text"}  # fmt: skip


def section(**keywords: Any) -> ConfigDict:
  """The section with these keys, and the defaults of the others.

  Raises:
    XpoError: no such key.
  """
  for key in keywords:
    if key not in DEFAULTS:
      raise _unknown_key("judge section", key)
  return ConfigDict(DEFAULTS | keywords)


def check(section: Mapping[str, Any], where: str) -> dict[str, Any]:
  """All that can be told before anything is loaded.

  A model, run or file that an earlier stage will make need not be there yet.

  Args:
    section: of `section`, or a dict; missing keys have their defaults. With
      the name "" there is no judge.
    where: of the section, for messages: "config.judge".

  Returns:
    key -> value, all of them.

  Raises:
    XpoError: (64, or 65 for a file of principles) an unknown name or key, a
      wrong type, a key that this judge does not use, no source or a bad one, a
      value out of range.
  """
  given = _typed(section, where)
  name = given["name"]
  if name and name not in USES:
    raise _unknown_name(where, name)
  uses = USES.get(name, ())
  for key, value in given.items():
    if key not in ("name", *uses) and value != DEFAULTS[key]:
      raise _unused(where, name, key, value)
  if "source" in uses and not given["source"].strip():
    what = _SOURCES.get(name, "a run, export, preset, folder or .gguf file")
    raise usage_error(f"{where}.source is empty; {name} needs {what}")
  _check_ranges(given, where)
  with named(where):
    _check_source(given)
  return given


@contextlib.contextmanager
def named(where: str):
  """Puts the section's place before an error raised inside."""
  try:
    yield
  except XpoError as e:
    raise XpoError(f"{where}: {e}", e.code) from e


def rule(given: Mapping[str, Any]):
  """The judge of a length or a format.

  Raises:
    XpoError: a source that is not LOW-HIGH, or no regular expression.
  """
  from xpo_jax.judges import rules

  source = given["source"]
  if given["name"] == "format":
    return rules.format_match(source)
  found = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})", source.strip())
  if not found:
    raise usage_error(
      f"source={source!r}: length wants LOW-HIGH in words, such as 20-60"
    )
  return rules.length(int(found[1]), int(found[2]))


def constitution(given: Mapping[str, Any], seed: int = 0):
  """The principles of the file, or our own; `seed` is that of the draws.

  Raises:
    XpoError: no such file, or more votes than it has principles.
  """
  from xpo_jax.judges import constitution, wording

  path = given["principles"]
  principles = wording.principles(path) if path else wording.principles()
  return constitution.Constitution(principles, given["votes"], seed)


def writer(given: Mapping[str, Any], temperature: float):
  """The writer behind the endpoint that the environment names.

  XPO_JUDGE_URL is up to and without /chat/completions; XPO_JUDGE_KEY holds the
  key, if there is one. Replies are kept in the cache folder.

  Raises:
    XpoError: no URL, or one that cannot be used with this key.
  """
  from xpo_jax import fetch
  from xpo_jax.judges import remote

  url = os.environ.get(URL, "")
  if not url:
    raise usage_error(
      f"{given['name']}: environment variable {URL} is empty; export the "
      "endpoint, such as http://127.0.0.1:8000/v1"
    )
  return remote.make_writer(
    remote.Endpoint(
      url=url,
      model=given["source"],
      key_variable=KEY if os.environ.get(KEY) else "",
      temperature=temperature,
      cache=str(fetch.cache_folder() / "judge"),
    )
  )


def refuse_template_of_run(given: Mapping[str, Any]) -> None:
  """A run of a reward model brings its template; called when it is there.

  Raises:
    XpoError: another one is named.
  """
  from xpo_jax import stored

  source, name = given["source"], given["template"]
  run = stored.split_source(source)[0]
  if name != "auto" and (run / "model.json").is_file():
    raise usage_error(
      f"template={name!r}: {source} is a run and judges with its own; leave it "
      "at 'auto'"
    )


def _typed(section: Mapping[str, Any], where: str) -> dict[str, Any]:
  for key in section:
    if key not in DEFAULTS:
      raise _unknown_key(where, key)
  given = DEFAULTS | dict(section)
  for key, default in DEFAULTS.items():
    kind, value = type(default), given[key]
    good = (int, float) if kind is float else (kind,)
    if type(value) not in good:
      raise usage_error(f"{where}.{key}={value!r} must be {_KINDS[kind]}")
  return given


def _unknown_key(where: str, key: str) -> XpoError:
  near = difflib.get_close_matches(key, DEFAULTS, 1)
  mend = (
    f"did you mean {near[0]!r}?" if near else f"it has {', '.join(DEFAULTS)}"
  )
  return usage_error(f"{where}: key {key!r} is unknown; {mend}")


def _unknown_name(where: str, name: str) -> XpoError:
  near = difflib.get_close_matches(name, USES, 1)
  hint = f"did you mean {near[0]!r}? " if near else ""
  return usage_error(
    f"{where}.name={name!r}: {hint}choose one of {', '.join(USES)}"
  )


def _unused(where: str, name: str, key: str, value) -> XpoError:
  users = ", ".join(other for other, uses in USES.items() if key in uses)
  who = f"name={name!r} does not use it" if name else "no judge is named"
  return usage_error(
    f"{where}.{key}={value!r}: {who}; leave it at {DEFAULTS[key]!r}, or choose "
    f"{users}"
  )


def _check_ranges(given: Mapping[str, Any], where: str) -> None:
  beta = given["beta"]
  for key, good, words in (
    ("template", given["template"] in TEMPLATES, "auto, plain or chat"),
    ("beta", beta >= 0 and math.isfinite(beta), "> 0, or 0 for the run's own"),
    ("votes", given["votes"] >= 1, ">= 1"),
    ("samples", given["samples"] >= 1, ">= 1"),
    ("max_invalid", 0 <= given["max_invalid"] <= 1, "in [0, 1]"),
  ):
    if not good:
      raise usage_error(f"{where}.{key}={given[key]!r} must be {words}")


def _check_source(given: Mapping[str, Any]) -> None:
  name, source = given["name"], given["source"]
  if name in ("length", "format"):
    rule(given)
  elif name == "principles":
    constitution(given)
  elif name == "function":
    _check_function(source)
  elif name.startswith("remote_"):
    writer(given, 0.0)
  elif name == "reward_model" and given["template"] != "auto":
    refuse_template_of_run(given)
  elif name == "implicit":
    _check_implicit(given)


def _check_implicit(given: Mapping[str, Any]) -> None:
  if given["reference"] and not given["beta"]:
    raise usage_error(
      f"beta is 0 with reference={given['reference']!r}; name the beta of "
      "beta (log pi - log ref)"
    )
  if not given["reference"] and given["template"] != "auto":
    raise usage_error(
      f"template={given['template']!r}: a run judges with its own; leave it at "
      "'auto', or name a reference"
    )


def _check_function(source: str) -> None:
  """Of the form module:function, and the module can be found."""
  module, _, function = source.partition(":")
  parts = [*module.split("."), function]
  if not all(part.isidentifier() for part in parts):
    raise usage_error(
      f"source={source!r}: want module:function, such as rewards:short"
    )
  top = parts[0]
  if top in sys.stdlib_module_names:
    raise usage_error(
      f"source={source!r}: {top} is Python's own; name a module of yours"
    )
  find = importlib.machinery.PathFinder.find_spec
  known = top in sys.modules or importlib.util.find_spec(top)
  if not known and not find(top, [os.getcwd()]):
    raise usage_error(
      f"source={source!r}: no module {top!r} in {os.getcwd()} or among the "
      "installed ones"
    )
