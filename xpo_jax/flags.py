"""`--config=FILE[:variant] --config.key=value --workdir=...` to a config.

A Python config file is code: only a path that the operator typed, ending in
.py, is run, and never one that lies in a folder of weights or checkpoints.
"""

from collections.abc import Sequence
import difflib
import importlib.util
import inspect
import os
from pathlib import Path
import re
import traceback
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from xpo_jax import checks, config
from xpo_jax.errors import XpoError, data_error, usage_error

_KINDS = {
  bool: "must be true or false",
  int: "must be an integer",
  float: "must be a number",
}
# What a folder of weights, of a tokenizer or of a checkpoint holds.
_WEIGHT_NAMES = {
  "config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "generation_config.json",
  "manifest.json",
  "_CHECKPOINT_METADATA",
}
_WEIGHT_SUFFIXES = {".safetensors", ".gguf", ".bin", ".pt"}


def parse(
  argv: Sequence[str],
  options: Sequence[str] = ("workdir",),
  optional: Sequence[str] = (),
) -> tuple[ConfigDict, dict[str, str]]:
  """Loads the config file and applies the overrides.

  Args:
    argv: what follows the subcommand.
    options: further flags, all required.
    optional: flags that may be left out.

  Returns:
    The locked config (not validated), and the value of each option; "" for an
    optional one that was not given.

  Raises:
    XpoError: unknown flag or key, a value of the wrong type, a flag given
      twice with different values, a config file that cannot be used.
  """
  given = _tokens(argv)
  for name in given:
    top = name.split(".")[0]
    known = ["config", *options, *optional]
    if top not in known:
      near = difflib.get_close_matches(top, known, 1)
      raise usage_error(
        f"unknown flag --{name}; "
        + (f"did you mean --{near[0]}?" if near else _usage(options))
      )
  for name in ("config", *options):
    if not given.get(name):
      raise usage_error(f"--{name} is required; {_usage(options)}")
  loaded = load_config_file(given["config"])
  overrides = {
    name.removeprefix("config."): value
    for name, value in given.items()
    if name.startswith("config.")
  }
  values = {name: given.get(name) or "" for name in (*options, *optional)}
  return override(loaded, overrides), values


def override(loaded: ConfigDict, overrides: dict[str, str | None]):
  """`loaded` with dotted keys set from text; a new method takes its defaults.

  Args:
    loaded: any ConfigDict.
    overrides: dotted key -> text; None is a bare `--config.key` (true).
  """
  loaded = loaded.copy_and_resolve_references().unlock()
  name = overrides.get("method.name")
  if name is not None and name != loaded.get("method", {}).get("name"):
    loaded.method = config.method(name)
  known = checks.leaves(loaded)
  args = ["xpo"]
  for path, text in overrides.items():
    if path not in known:
      raise checks.unknown_key(path, known)
    if isinstance(known[path], str) and text is None:
      raise usage_error(f"--config.{path} needs a value")
    args.append(f"--config.{path}={'true' if text is None else text}")
  loaded.lock()
  values = flags.FlagValues()
  try:
    config_flags.DEFINE_config_dict(
      "config", loaded, flag_values=values, sys_argv=args
    )
    values(args)
  except (flags.Error, ValueError, TypeError) as e:
    raise _bad_value(overrides, known, e) from e
  return values.config


def load_config_file(path: str) -> ConfigDict:
  """Runs get_config() of `FILE.py[:variant]`, or reads `FILE.json`.

  Raises:
    XpoError: no such file, no config file, or its code failed.
  """
  file, colon, arg = path.partition(".py:")
  file = Path(f"{file}.py" if colon else path)
  if "://" in path:
    raise usage_error(f"--config={path} is a URL; a config is a local file")
  if file.is_dir() or file.suffix not in (".py", ".json"):
    raise usage_error(f"--config={path}: a config is a .py or .json file")
  if not file.is_file():
    siblings = [p.name for p in file.parent.glob("*.py")]
    near = difflib.get_close_matches(file.name, siblings, 1)
    hint = f"; did you mean {file.parent / near[0]}?" if near else ""
    raise usage_error(f"--config={path}: no such file{hint}")
  if file.suffix == ".json":
    return config.from_json(_text(file), str(file))
  _refuse_weights_folder(file)
  return _run(file, arg if colon else None)


def _run(file: Path, arg: str | None) -> ConfigDict:
  try:
    spec = importlib.util.spec_from_file_location("xpo_config", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
      raise usage_error(f"--config={file}: defines no get_config()")
    takes = len(inspect.signature(module.get_config).parameters)
    if arg is not None and not takes:
      raise usage_error(f"--config={file}:{arg}: {file} has no variants")
    loaded = module.get_config(arg) if takes else module.get_config()
  except XpoError:
    raise
  except Exception as e:  # the operator's own code
    raise _code_error(file, e) from e
  if not isinstance(loaded, ConfigDict):
    raise usage_error(f"--config={file}: get_config() must return a ConfigDict")
  return loaded.lock()


def _refuse_weights_folder(file: Path) -> None:
  for folder in {file.absolute().parent, file.resolve().parent}:
    for entry in folder.iterdir():
      if entry.name in _WEIGHT_NAMES or entry.suffix in _WEIGHT_SUFFIXES:
        raise usage_error(
          f"--config={file} lies beside {entry.name}, in a folder of weights: "
          "JSON only there; copy the file elsewhere if you trust it"
        )


def _text(file: Path) -> str:
  try:
    return file.read_text(encoding="utf-8")
  except UnicodeDecodeError as e:
    raise data_error(f"{file}: byte {e.start} is no UTF-8; save it so") from e


def _tokens(argv: Sequence[str]) -> dict[str, str | None]:
  """Flag name -> its text, or None for a bare flag."""
  given: dict[str, str | None] = {}
  rest = list(argv)
  while rest:
    token = rest.pop(0)
    if not token.startswith("--"):
      raise usage_error(
        f"unexpected argument {token!r}; flags are --name=value"
      )
    name, equals, text = token[2:].partition("=")
    value: str | None = text if equals else None
    if not equals and rest and not rest[0].startswith("--"):
      value = rest.pop(0)
    if name in given and given[name] != value:
      raise usage_error(
        f"--{name} is given twice: {given[name]} and {value}; keep one"
      )
    given[name] = value
  return given


def _usage(options: Sequence[str]) -> str:
  flags_ = " ".join(f"--{name}=..." for name in options)
  return f"usage: --config=FILE.py[:variant] {flags_} [--config.key=value ...]"


def _bad_value(
  overrides: dict[str, str | None], known: dict[str, Any], e: Exception
) -> XpoError:
  """Names the key whose text does not parse as its type."""
  for path, text in overrides.items():
    kind = type(known[path])
    try:
      if kind in (int, float):
        kind(text)
      elif kind is bool:
        flags.BooleanParser().parse(text or "true")
    except (ValueError, TypeError):
      return usage_error(f"{path}={text} {_KINDS[kind]}")
  return usage_error(" ".join(str(e).split()))


def _code_error(file: Path, e: Exception) -> XpoError:
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(e.__traceback__)
    if os.path.abspath(frame.filename) == str(file.absolute())
  ]
  line = getattr(e, "lineno", None) or (lines[-1] if lines else 1)
  return usage_error(f"{file}:{line}: {type(e).__name__}: {_said(e)}")


def _said(e: Exception) -> str:
  """What matters of a message; ml_collections adds a dump of the config."""
  text = str(e)
  hint = re.search(r'Did you mean "[^"]*" instead of "[^"]*"\?', text)
  return hint[0] if hint else text.split("\n")[0][:200]
