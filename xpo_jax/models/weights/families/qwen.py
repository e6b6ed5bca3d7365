"""Qwen 2 (and 2.5) and Qwen 3: Llama with biases, or with head norms."""

from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.models.weights.families import llama
from xpo_jax.models.weights.families.family import Family
from xpo_jax.models.weights.fields import Fields, layer_types
from xpo_jax.models.weights.names import Row

BIASES = (
  llama.in_layer("self_attn.q_proj.bias", "HC", "HC", "attention/query_bias"),
  llama.in_layer("self_attn.k_proj.bias", "GC", "GC", "attention/key_bias"),
  llama.in_layer("self_attn.v_proj.bias", "GC", "GC", "attention/value_bias"),
)


def _read(f: Fields, head_dim: int | None, **details) -> TransformerConfig:
  f.only(hidden_act=("silu", None))
  found = llama.sizes(f, tied=False, head_dim=head_dim)
  windows = f.windows(_windowed(f, found["layers"]))
  if windows and not f.flag("use_sliding_window", False):
    raise f.error(
      "layer_types has sliding_attention without use_sliding_window"
    )
  return TransformerConfig(
    **found, **llama.rope(f, found), **windows, **details
  )


def _windowed(f: Fields, layers: int) -> tuple[bool, ...]:
  """Layers from max_window_layers on, if windows are used at all."""
  if not f.flag("use_sliding_window", False):
    return (False,) * layers
  first = f.raw.get("max_window_layers", 28)
  if not isinstance(first, int) or first < 0:
    raise f.error(f"max_window_layers={first!r}, want a whole number from 0")
  return tuple(i >= first for i in range(layers))


def _read_2(f: Fields) -> TransformerConfig:
  f.only(attention_bias=(True, None))
  return _read(f, None, family="qwen2", biases="qkv")


def _read_3(f: Fields) -> TransformerConfig:
  f.only(attention_bias=(False, None))
  return _read(f, 128, family="qwen3", qk_norm=True)


def _write(config: TransformerConfig) -> dict:
  on = any(config.windowed)
  own = {
    "hidden_act": "silu",
    "use_sliding_window": on,
    "sliding_window": config.window if on else None,
    "max_window_layers": config.layers,
    "layer_types": layer_types(config.windowed, config.layers),
  }
  if on:  # transformers 4 knows no layer_types
    own["max_window_layers"] = config.windowed.index(True)
  whole = llama.write_sizes(config) | own
  if config.family == "qwen2":
    del whole["attention_bias"]  # not one of its keys: always there
  return whole


def _family(version: int, more: tuple[Row, ...], read) -> Family:
  return Family(
    model_type=f"qwen{version}",
    rows=(*llama.ROWS, *more),
    head=llama.HEAD,
    read=read,
    write=_write,
    language_model=f"Qwen{version}ForCausalLM",
    reward_model=f"Qwen{version}ForSequenceClassification",
  )


QWEN2 = _family(2, BIASES, _read_2)
QWEN3 = _family(3, llama.HEAD_NORMS, _read_3)
