"""Values of a Hugging Face config.json, each checked where it is read."""

import dataclasses
import math
from pathlib import Path

from xpo_jax.errors import XpoError, checkpoint_error

MAX_LAYERS = 1000  # a bound on names, so that a wrong number fails at once
MAX_SIZE = 2**31 - 1
KINDS = {"full_attention": False, "sliding_attention": True}
# Keys of features that no family here has: {key: values that mean "off"}.
UNSUPPORTED = {
  "quantization_config": (None,),
  "num_experts": (None, 0),
  "num_local_experts": (None, 0),
  "n_routed_experts": (None, 0),
  "add_cross_attention": (False, None),
  "use_bidirectional_attention": (False, None),
  "use_mrope": (False, None),
  "vision_config": (None,),
  "adapters": (None,),
}


@dataclasses.dataclass(frozen=True)
class Fields:
  """A parsed config.json and its path for messages."""

  raw: dict
  path: Path

  def error(self, text: str) -> XpoError:
    return checkpoint_error(f"{self.path}: {text}")

  def only(self, **allowed: tuple) -> None:
    """Refuses every key whose value is not one of those that we compute."""
    for key, values in (UNSUPPORTED | allowed).items():
      value = self.raw.get(key)
      # True == 1, but the one is no value of a key for the other.
      same = [
        v == value and isinstance(v, bool) == isinstance(value, bool)
        for v in values
      ]
      if not any(same):
        raise self.error(
          f"{key}={value!r} is not supported, only"
          f" {' or '.join(map(str, values))}"
          f" (model_type {self.raw.get('model_type')})"
        )

  def size(self, key: str, default: int | None = None) -> int:
    """A whole number from 1."""
    value = self.raw.get(key)
    value = default if value is None else value
    whole = isinstance(value, int) and not isinstance(value, bool)
    most = MAX_LAYERS if key in ("num_hidden_layers", "n_layer") else MAX_SIZE
    if not whole or not 0 < value <= most:
      raise self.error(f"{key}={value!r}, want a whole number from 1 to {most}")
    return value

  def number(self, key: str, default: float | None = None) -> float:
    """A finite number above 0."""
    value = self.raw.get(key)
    return self.positive(key, default if value is None else value)

  def positive(self, key: str, value) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
      raise self.error(f"{key}={value!r}, want a number above 0")
    return float(value)

  def off_or_number(self, key: str) -> float:
    """0.0 for null or a missing key, else a number above 0."""
    return 0.0 if self.raw.get(key) is None else self.number(key)

  def flag(self, key: str, default: bool) -> bool:
    value = self.raw.get(key)
    value = default if value is None else value
    if not isinstance(value, bool):
      raise self.error(f"{key}={value!r}, want true or false")
    return value

  def windows(self, default: tuple[bool, ...]) -> dict:
    """`window` and `windowed` of the config; layer_types wins over default."""
    kinds = self.raw.get("layer_types")
    if kinds is not None:
      known = isinstance(kinds, list) and all(
        isinstance(k, str) and k in KINDS for k in kinds
      )
      if not known or len(kinds) != len(default):
        raise self.error(
          f"layer_types={kinds!r}, want {len(default)} of {' or '.join(KINDS)}"
        )
      default = tuple(KINDS[k] for k in kinds)
    if not any(default):
      return {}
    return dict(window=self.size("sliding_window"), windowed=default)


def layer_types(windowed: tuple[bool, ...], layers: int) -> list[str]:
  """The value of `layer_types`; undoes `Fields.windows`."""
  names = {on: name for name, on in KINDS.items()}
  return [names[on] for on in windowed or (False,) * layers]
