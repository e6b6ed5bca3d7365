"""Mistral 7B and its kin: Llama with a sliding window in every layer."""

from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.models.weights.families import llama
from xpo_jax.models.weights.families.family import Family
from xpo_jax.models.weights.fields import Fields


def _read(f: Fields) -> TransformerConfig:
  f.only(hidden_act=("silu", None), **llama.NO_BIASES)
  found = llama.sizes(f, tied=False)
  everywhere = (f.raw.get("sliding_window") is not None,) * found["layers"]
  windows = f.windows(everywhere)
  if windows.get("windowed", (False,) * found["layers"]) != everywhere:
    raise f.error(
      f"layer_types={f.raw['layer_types']!r} is not supported: Mistral's layers"
      " are all windowed (sliding_window) or none is"
    )
  rope = llama.rope(f, found)
  return TransformerConfig(**found, **rope, **windows, family="mistral")


def _write(config: TransformerConfig) -> dict:
  window = config.window if any(config.windowed) else None
  return llama.write_sizes(config) | {
    "hidden_act": "silu",
    "sliding_window": window,
  }


MISTRAL = Family(
  model_type="mistral",
  rows=llama.ROWS,
  head=llama.HEAD,
  read=_read,
  write=_write,
  language_model="MistralForCausalLM",
  reward_model="MistralForSequenceClassification",
)
