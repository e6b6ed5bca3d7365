"""Rotary embeddings in config.json, older and newer layout.

Older: rope_theta, rope_scaling. Newer (transformers 5): rope_parameters, also
one object a kind of layer. Values inside of an object win over the top level.
"""

import math

from xpo_jax.models.architecture import RopeScaling, TransformerConfig
from xpo_jax.models.weights.fields import KINDS, Fields

_ALWAYS = {"rope_type", "rope_theta", "partial_rotary_factor"}
_LENGTH = "original_max_position_embeddings"
_KEYS = {
  "default": set(),
  "linear": {"factor"},
  "llama3": {"factor", _LENGTH, "low_freq_factor", "high_freq_factor"},
  "yarn": {
    "factor",
    _LENGTH,
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
  },
}


def read(
  f: Fields,
  head_dim: int,
  max_length: int,
  *,
  theta: float,
  share: float = 1.0,
) -> dict:
  """`rope_theta`, `rope_scaling`, `rotary_dim` of a config.

  Args:
    f: the config.json.
    head_dim: width of a head.
    max_length: of the model.
    theta: if no object says otherwise.
    share: of a head's places that turn, if no object says otherwise.

  Raises:
    XpoError: (66) an unknown kind or key, a missing or impossible value.
  """
  found = _merged(f, "full_attention")
  theta = f.positive("rope_theta", found.get("rope_theta", theta))
  share = found.get("partial_rotary_factor", share)
  share = f.positive("partial_rotary_factor", share)
  turning = int(head_dim * share)
  if share > 1 or turning % 2 or not turning:
    raise f.error(
      f"partial_rotary_factor={share} of head_dim={head_dim}: want an even"
      f" number of places from 2 to {head_dim}"
    )
  return dict(
    rope_theta=theta,
    rope_scaling=_scaling(f, found, max_length),
    rotary_dim=None if turning == head_dim else turning,
  )


def local_theta(f: Fields, theta: float) -> float:
  """`window_rope_theta`: the windowed layers' own, which nothing may scale."""
  found = _nested(f, "rope_parameters", "sliding_attention")
  kind = found.get("rope_type", "default")
  if kind != "default" or set(found) - {"rope_type", "rope_theta"}:
    raise f.error(
      f"rope_parameters={found!r} of sliding_attention is not supported, only"
      " rope_type 'default' with rope_theta"
    )
  return f.positive("rope_theta", found.get("rope_theta", theta))


def write(config: TransformerConfig) -> dict:
  """The object that `rope_parameters` holds; undoes `read`."""
  s, found = config.rope_scaling, {"rope_theta": config.rope_theta}
  if config.rotary_dim is not None:
    found["partial_rotary_factor"] = config.rotary_dim / config.head_dim
  if s is None:
    return found | {"rope_type": "default"}
  found |= {"rope_type": s.kind, "factor": s.factor}
  if s.kind == "linear":
    return found
  found[_LENGTH] = s.original_length
  low, high = ("low_freq_factor", "high_freq_factor")
  if s.kind == "yarn":
    low, high = ("beta_slow", "beta_fast")
    found |= {"attention_factor": s.magnitude, "truncate": s.truncate}
  return found | {low: s.low, high: s.high}


def write_older(config: TransformerConfig) -> dict:
  """`rope_scaling` for transformers 4, if there is any."""
  if config.rope_scaling is None:
    return {}
  own = write(config)
  drop = ("rope_theta", "partial_rotary_factor")
  return {"rope_scaling": {k: v for k, v in own.items() if k not in drop}}


def _nested(f: Fields, key: str, kind: str) -> dict:
  """The object under `key`, or its part for layers of this kind."""
  found = f.raw.get(key)
  found = {} if found is None else found
  if isinstance(found, dict) and set(found) & set(KINDS):
    found = found.get(kind) or {}
  elif kind != "full_attention":
    found = {}
  if not isinstance(found, dict):
    raise f.error(f"{key}={found!r}, want an object or null")
  found = {k: v for k, v in found.items() if v is not None}
  if "type" in found:
    found.setdefault("rope_type", found.pop("type"))
    found.pop("type", None)
  return found


def _merged(f: Fields, kind: str) -> dict:
  parts = {
    key: _nested(f, key, kind) for key in ("rope_scaling", "rope_parameters")
  }
  for key, part in parts.items():
    name = part.get("rope_type", "default")
    if not isinstance(name, str) or name not in _KEYS:
      raise f.error(
        f"{key}={part!r} is not supported, only rope_type {', '.join(_KEYS)}"
      )
    unknown = set(part) - _KEYS[name] - _ALWAYS
    if unknown:
      raise f.error(
        f"{key}={part!r}: {min(unknown)!r} is not supported with rope_type"
        f" {name!r}"
      )
  older, newer = parts.values()
  for key in set(older) & set(newer):
    if older[key] != newer[key]:
      raise f.error(
        f"rope_scaling={older!r} and rope_parameters={newer!r} disagree;"
        " remove one"
      )
  return older | newer


def _scaling(f: Fields, found: dict, max_length: int) -> RopeScaling | None:
  kind = found.get("rope_type", "default")
  if kind == "default":
    return None
  number = lambda key, default=None: f.positive(
    f"rope_parameters={found!r}: {key}", found.get(key, default)
  )
  if kind == "linear":
    return RopeScaling("linear", number("factor"))
  length = found.get(_LENGTH, max_length)
  if not isinstance(length, int):
    raise f.error(f"rope_parameters={found!r}: {_LENGTH} must be whole")
  number(_LENGTH, max_length)
  if kind == "llama3":
    low, high = number("low_freq_factor"), number("high_freq_factor")
    scaling = RopeScaling(kind, number("factor"), length, low, high)
  else:
    scaling = _yarn(f, found, number, length, max_length)
  if scaling.low >= scaling.high:
    raise f.error(
      f"rope_parameters={found!r}: {scaling.low} must be below {scaling.high}"
    )
  return scaling


def _yarn(f, found, number, length, max_length) -> RopeScaling:
  factor = number("factor", max_length / length)
  size = lambda scale: (
    1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0
  )
  magnitude = size(1.0)
  if found.get("mscale") and found.get("mscale_all_dim"):
    magnitude = size(number("mscale")) / size(number("mscale_all_dim"))
  truncate = found.get("truncate", True)
  if not isinstance(truncate, bool):
    raise f.error(f"rope_parameters={found!r}: truncate must be true or false")
  return RopeScaling(
    kind="yarn",
    factor=factor,
    original_length=length,
    low=number("beta_slow", 1.0),
    high=number("beta_fast", 32.0),
    magnitude=number("attention_factor", magnitude),
    truncate=truncate,
  )
