"""Gemma 2 and the text models of Gemma 3."""

from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.models.weights import rope_fields
from xpo_jax.models.weights.families import llama
from xpo_jax.models.weights.families.family import Family
from xpo_jax.models.weights.fields import Fields, layer_types
from xpo_jax.models.weights.names import Row

_TANH = "gelu_pytorch_tanh"
_norm = lambda name, path: llama.in_layer(
  f"{name}_layernorm.weight", "D", "D", f"{path}/scale"
)
NORMS = (
  _norm("input", "attention_norm"),
  _norm("post_attention", "attention_post_norm"),
  _norm("pre_feedforward", "mlp_norm"),
  _norm("post_feedforward", "mlp_post_norm"),
)
ROWS = (llama.EMBEDDING, *llama.KERNELS, *NORMS, llama.FINAL_NORM)


def _read(f: Fields, rope, every: int, **details) -> TransformerConfig:
  """`every`: of so many layers the last sees everything."""
  # Older exports also carry hidden_act, which transformers does not read.
  f.only(hidden_activation=(_TANH, None), attention_bias=(False, None))
  found = llama.sizes(f, tied=True, head_dim=256)
  alternating = tuple((i + 1) % every != 0 for i in range(found["layers"]))
  return TransformerConfig(
    **found,
    **rope(f, found),
    **f.windows(alternating),
    **details,
    norm="rms_plus_one",
    post_norms=True,
    activation="gelu_tanh",
    embedding_scale=True,
    query_scalar=f.number("query_pre_attn_scalar", 256),
    attention_cap=f.off_or_number("attn_logit_softcapping"),
    logit_cap=f.off_or_number("final_logit_softcapping"),
  )


def _read_2(f: Fields) -> TransformerConfig:
  return _read(f, llama.rope, 2, family="gemma2")


def _read_3(f: Fields) -> TransformerConfig:
  every = f.size("sliding_window_pattern", 6)
  return _read(f, _two_ropes, every, family="gemma3_text", qk_norm=True)


def _two_ropes(f: Fields, found: dict) -> dict:
  local = f.number("rope_local_base_freq", 10_000.0)
  own = llama.rope(f, found, 1_000_000.0)
  return own | {"window_rope_theta": rope_fields.local_theta(f, local)}


def _write_2(config: TransformerConfig) -> dict:
  off_or = lambda value: value or None
  return llama.write_sizes(config) | {
    "hidden_activation": _TANH,
    "hidden_act": _TANH,
    "query_pre_attn_scalar": _whole(config.query_scalar),
    "attn_logit_softcapping": off_or(config.attention_cap),
    "final_logit_softcapping": off_or(config.logit_cap),
    "sliding_window": off_or(config.window),
    "layer_types": layer_types(config.windowed, config.layers),
  }


def _write_3(config: TransformerConfig) -> dict:
  local = {"rope_type": "default", "rope_theta": config.window_rope_theta}
  whole = rope_fields.write(config)
  return _write_2(config) | {
    "rope_local_base_freq": config.window_rope_theta,
    "rope_parameters": {"full_attention": whole, "sliding_attention": local},
  }


def _whole(value: float) -> int | float:
  """transformers wants an integer."""
  return int(value) if value == int(value) else value


def _family(model_type, name, more: tuple[Row, ...], read, write) -> Family:
  return Family(
    model_type=model_type,
    rows=(*ROWS, *more),
    head=llama.HEAD,
    read=read,
    write=write,
    language_model=f"{name}ForCausalLM",
    reward_model=f"{name}ForSequenceClassification",
  )


GEMMA2 = _family("gemma2", "Gemma2", (), _read_2, _write_2)
GEMMA3 = _family(
  "gemma3_text", "Gemma3", llama.HEAD_NORMS, _read_3, _write_3
)._replace(reward_model="Gemma3TextForSequenceClassification")
