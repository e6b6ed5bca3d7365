"""The settings of a stage: defaults filled in, keys and values checked."""

from collections.abc import Callable, Mapping
import difflib
import math
from typing import Any

from ml_collections import ConfigDict

from xpo_jax.errors import usage_error

Rule = tuple[str, Callable[[Any], bool], str]  # key, whether it holds, words

DATA = {"source": "", "split": "train", "format": "auto", "on_bad_row": "error"}

_KINDS = {
  bool: "True or False",
  int: "an integer",
  float: "a number",
  str: "a text",
  tuple: "a list of texts",
  dict: "a section",
}


def fill(
  settings: Mapping[str, Any],
  defaults: Mapping[str, Any],
  rules: tuple[Rule, ...],
  where: str,
) -> ConfigDict:
  """The settings with the defaults of what is not given.

  Args:
    settings: given keys.
    defaults: every key; a dict is a section of more, whose rules are those of
      "SECTION.KEY".
    rules: of values.
    where: "stages.NAME", for messages.

  Raises:
    XpoError: (64) an unknown key, a value of another type or out of range.
  """
  out = _fill(settings, defaults, where)
  for key, holds, words in rules:
    value = out
    for part in key.split("."):
      value = value[part]
    if not holds(value):
      raise usage_error(f"{where}.{key}={value!r}: must be {words}")
  return ConfigDict(out).lock()


def at_least(key: str, low: float) -> Rule:
  """A rule for a number."""
  return key, lambda v: v >= low, f">= {low}"


def choice(key: str, *words: str) -> Rule:
  """A rule for a text."""
  return key, lambda v: v in words, f"one of {', '.join(words)}"


def required(key: str, words: str) -> Rule:
  """A rule for a text that has no default."""
  return key, bool, f"given: {words}"


def _fill(settings, defaults, where: str) -> dict[str, Any]:
  out = dict(defaults)
  for key, value in settings.items():
    if key not in defaults:
      near = difflib.get_close_matches(key, defaults, 1)
      mend = f"did you mean {near[0]!r}?" if near else "it has "
      known = "" if near else ", ".join(defaults)
      raise usage_error(f"{where}.{key} is unknown; {mend}{known}")
    out[key] = _same_type(value, defaults[key], f"{where}.{key}")
  for key, default in defaults.items():
    if isinstance(default, dict):
      out[key] = _fill(out[key], default, f"{where}.{key}")
  return out


def _same_type(value, default, where: str):
  kind = type(default)
  if kind is float and type(value) is int and abs(value) < 2**53:
    value = float(value)
  if kind is tuple and isinstance(value, list):
    value = tuple(value)
  good = isinstance(value, Mapping | ConfigDict if kind is dict else kind)
  good &= kind is bool or not isinstance(value, bool)
  words = _KINDS[kind]
  if kind is tuple:
    each = str
    if default and isinstance(default[0], float):
      each, words = (int, float), "a list of numbers"
    good = good and all(
      isinstance(own, each) and not isinstance(own, bool) for own in value
    )
  if kind is float and good:
    good = math.isfinite(value)
  if not good:
    raise usage_error(f"{where}={value!r:.80}: must be {words}")
  return value
