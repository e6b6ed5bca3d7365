"""The config tree: defaults, recipes' variants, checks, JSON.

A config is a locked `ConfigDict` with the leaves of `fields.FIELDS`, plus the
keywords of one method beside `method.name`. It is saved as JSON and read back
by `from_json`; Python config files are run only when the operator names one
(see `flags.py`).
"""

import json
from typing import Any

from ml_collections import ConfigDict

from xpo_jax import checks
from xpo_jax.errors import usage_error
from xpo_jax.fields import FIELDS

# What recipes set for a variant; the key after the colon of configs/x.py:tiny.
_VARIANTS = {
  # A model from scratch of under a million weights, for a minute on a laptop.
  "tiny": {
    "model.source": "tiny",
    "data.max_prompt_length": 48,
    "data.max_completion_length": 48,
    "batch.row_length": 256,
    "optimizer.learning_rate": 1e-3,
  },
  # SmolLM2-135M-Instruct; the last blocks are trained on cached trunk states.
  "smollm": {
    "model.source": "smollm2-135m-instruct",
    "model.trained_blocks": 6,
    "data.max_prompt_length": 64,
    "data.max_completion_length": 64,
    "batch.row_length": 256,
    "batch.prompts": 16,
    "optimizer.learning_rate": 5e-5,
  },
}
_POD = {
  "model.dtype": "bfloat16",
  "data.max_prompt_length": 512,
  "data.max_completion_length": 768,
  "batch.row_length": 2048,
  "batch.prompts": 64,
  "mesh.data": 1,
  "mesh.fsdp": -1,
  "optimizer.learning_rate": 5e-7,
}
# Sizes to compile for; a run sets model.source to a folder of weights.
PODS = ("llama8b", "qwen8b", "gemma9b", "llama70b")
_VARIANTS |= {name: _POD | {"model.source": name} for name in PODS}
_VARIANTS["llama70b"] |= {"batch.prompts": 256}
VARIANTS = ("smollm", "tiny", *PODS)


def base(variant: str = "") -> ConfigDict:
  """The default config, locked.

  Args:
    variant: "", or one of VARIANTS: model, lengths and step size to start from.
  """
  tree: dict[str, Any] = {}
  for path, field in FIELDS.items():
    *sections, leaf = path.split(".")
    node = tree
    for section in sections:
      node = node.setdefault(section, {})
    node[leaf] = field.default
  config = ConfigDict(tree)
  if variant:
    config.update_from_flattened_dict(_VARIANTS[variant])
  return config.lock()


def method(name: str, **keywords: Any) -> ConfigDict:
  """`{name, every keyword of its loss}`: defaults overridden by `keywords`.

  Raises:
    XpoError: no such method, no such keyword, a value out of range.
  """
  from xpo_jax import methods  # imports jax: not for `xpo --help`

  return ConfigDict({"name": name, **methods.get(name).settings(keywords)})


def parse_arg(arg: str | None, **choices: tuple[str, ...]) -> ConfigDict:
  """Reads what follows the colon of `configs/dpo.py:tiny`.

  Args:
    arg: comma-separated words; each is a choice, or `option=choice`.
    **choices: option -> allowed words, the first is the default.

  Returns:
    option -> word.

  Raises:
    XpoError: a word that no option offers.
  """
  chosen = {option: words[0] for option, words in choices.items()}
  for part in (arg or "").split(","):
    option, _, word = part.strip().rpartition("=")
    options = [option] if option else list(choices)
    fits = [o for o in options if word in choices.get(o, ())]
    if part.strip() and not fits:
      offered = [w for words in choices.values() for w in words]
      raise usage_error(
        f"config variant {part.strip()!r} is unknown; choose one of "
        f"{', '.join(offered)}"
      )
    chosen.update({o: word for o in fits})
  return ConfigDict(chosen)


def validate(config: ConfigDict, devices: int | None = None) -> None:
  """Every check that needs no data and no model; one-line errors.

  Args:
    config: a whole tree.
    devices: their number; None leaves out what depends on it.

  Raises:
    XpoError: unknown or missing key, wrong type, a value out of range, or two
      values that exclude each other.
  """
  checks.check_keys(config, _with_method(config))
  checks.check_values(config)
  checks.check_method(config)
  checks.check_auxiliary(config)
  checks.check_together(config)
  if devices is not None:
    mesh_shape(config, devices)


def mesh_shape(config: ConfigDict, devices: int) -> tuple[int, int, int]:
  """(data, fsdp, tensor) with the -1 filled in; see `validate`."""
  shape = checks.fill_mesh(config.mesh, devices)
  checks.check_batch(config, shape)
  return shape


def to_json(config: ConfigDict) -> str:
  """Plain JSON with sorted keys, ending in a newline."""
  tree = config.to_dict()
  return json.dumps(tree, indent=2, sort_keys=True, allow_nan=False) + "\n"


def from_json(text: str, where: str = "config.json") -> ConfigDict:
  """The config that `to_json` wrote; missing keys get their default.

  Raises:
    XpoError: not JSON, NaN, a duplicate or unknown key, a wrong type.
  """

  def no_constant(word):
    raise ValueError(f"{word} is not allowed")

  def unique(pairs):
    keys = [k for k, _ in pairs]
    for key in keys:
      if keys.count(key) > 1:
        raise ValueError(f"key {key!r} is given twice")
    return dict(pairs)

  try:
    tree = json.loads(
      text, parse_constant=no_constant, object_pairs_hook=unique
    )
  except (ValueError, RecursionError) as e:
    raise usage_error(f"{where}: {e}; write plain JSON") from e
  if not isinstance(tree, dict) or not isinstance(tree.get("method"), dict):
    raise usage_error(f"{where}: no config: it has no section 'method'")
  given = ConfigDict(tree)
  whole = _with_method(given)
  checks.check_keys(given, whole, partial=True)
  for path, value in checks.leaves(given).items():
    if not path.startswith("method."):
      default = checks.leaves(whole)[path]
      value = float(value) if isinstance(default, float) else value
      whole.update_from_flattened_dict({path: value})
  whole.method = method(**given.method)
  return whole.lock()


def _with_method(config: ConfigDict) -> ConfigDict:
  """base() whose method section has the keys of config's method."""
  whole = base().unlock()
  name = config.get("method", {}).get("name", None)
  if name is not None:
    whole.method = method(name)
  return whole
