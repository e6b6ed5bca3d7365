"""Hugging Face's config.json of a Llama model <-> TransformerConfig."""

import math
from pathlib import Path

from xpo_jax.errors import checkpoint_error
from xpo_jax.models.transformer import TransformerConfig

MAX_LAYERS = 1000  # a bound on names, so that a wrong number fails at once
MAX_SIZE = 2**31 - 1


def config_from_hf(raw: dict, path: Path) -> TransformerConfig:
  """Reads the sizes, refusing what the decoder does not compute.

  Knows both layouts: `rope_theta` at the top level, and `rope_parameters` of
  transformers 5 (which wins).

  Args:
    raw: the parsed config.json.
    path: its path, for messages.

  Raises:
    XpoError: (66) another architecture, or a missing or impossible value.
  """
  _refuse_other_families(raw, path)
  size = lambda key, default=None: _size(raw, key, default, path)
  heads, width = size("num_attention_heads"), size("hidden_size")
  kv_heads = size("num_key_value_heads", heads)
  head_dim = size("head_dim", width // heads)
  layers = size("num_hidden_layers")
  if heads % kv_heads or head_dim % 2 or layers > MAX_LAYERS:
    raise checkpoint_error(
      f"{path}: num_attention_heads={heads}, num_key_value_heads={kv_heads},"
      f" head_dim={head_dim}, num_hidden_layers={layers} do not fit together:"
      " want heads a multiple of kv heads, an even head_dim and at most"
      f" {MAX_LAYERS} layers"
    )
  return TransformerConfig(
    vocab_size=size("vocab_size"),
    width=width,
    layers=layers,
    heads=heads,
    kv_heads=kv_heads,
    head_dim=head_dim,
    mlp_width=size("intermediate_size"),
    rope_theta=_rope_theta(raw, path),
    norm_eps=_positive(raw.get("rms_norm_eps", 1e-6), "rms_norm_eps", path),
    tied=bool(raw.get("tie_word_embeddings", False)),
    max_length=size("max_position_embeddings", 2048),
  )


def config_to_hf(config: TransformerConfig, dtype: str) -> dict:
  """config.json content that transformers 4 and 5 read alike."""
  return {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": config.vocab_size,
    "hidden_size": config.width,
    "intermediate_size": config.mlp_width,
    "num_hidden_layers": config.layers,
    "num_attention_heads": config.heads,
    "num_key_value_heads": config.kv_heads,
    "head_dim": config.head_dim,
    "max_position_embeddings": config.max_length,
    "rms_norm_eps": config.norm_eps,
    "rope_theta": config.rope_theta,
    "rope_parameters": {
      "rope_theta": config.rope_theta,
      "rope_type": "default",
    },
    "tie_word_embeddings": config.tied,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "torch_dtype": dtype,
    "dtype": dtype,
  }


def _refuse_other_families(raw: dict, path: Path) -> None:
  wanted = {
    "model_type": ("llama",),
    "hidden_act": ("silu", None),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "quantization_config": (None,),
    "partial_rotary_factor": (1.0, None),
    "tie_word_embeddings": (True, False, None),
  }
  for key, allowed in wanted.items():
    if raw.get(key) not in allowed:
      raise checkpoint_error(
        f"{path}: {key}={raw.get(key)!r} is not supported, only"
        f" {' or '.join(map(str, allowed))} (Llama family)"
      )


def _size(raw: dict, key: str, default: int | None, path: Path) -> int:
  value = raw.get(key)
  value = default if value is None else value
  whole = isinstance(value, int) and not isinstance(value, bool)
  if not whole or not 0 < value <= MAX_SIZE:
    raise checkpoint_error(
      f"{path}: {key}={value!r}, want a whole number from 1 to {MAX_SIZE}"
    )
  return value


def _positive(value, key: str, path: Path) -> float:
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if not number or not 0 < value < math.inf:
    raise checkpoint_error(f"{path}: {key}={value!r}, want a number above 0")
  return float(value)


def _rope_theta(raw: dict, path: Path) -> float:
  theta = raw.get("rope_theta", 10_000.0)
  for key in ("rope_scaling", "rope_parameters"):
    rope = raw.get(key) or {}
    if not isinstance(rope, dict):
      raise checkpoint_error(f"{path}: {key}={rope!r}, want an object or null")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
      raise checkpoint_error(
        f"{path}: {key}={rope!r} is not supported, only rope_type 'default'"
      )
    theta = rope.get("rope_theta", theta)
  return _positive(theta, "rope_theta", path)
