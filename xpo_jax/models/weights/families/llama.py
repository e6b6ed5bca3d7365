"""Llama 1 to 3.x, and what its younger siblings share with it."""

from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.models.weights import rope_fields
from xpo_jax.models.weights.families.family import Family
from xpo_jax.models.weights.fields import Fields
from xpo_jax.models.weights.names import Row, row

LAYER = "model.layers.{}."
EMBEDDING = row("model.embed_tokens.weight", "V D", "VD", "embed/embedding")
FINAL_NORM = row("model.norm.weight", "D", "D", "final_norm/scale")
HEAD = row("lm_head.weight", "V D", "DV", "head/kernel")


def in_layer(name: str, file: str, tree: str, path: str) -> Row:
  """A row of every layer."""
  return row(LAYER + name, file, tree, f"blocks/{path}")


KERNELS = (
  in_layer("self_attn.q_proj.weight", "HC D", "DHC", "attention/query"),
  in_layer("self_attn.k_proj.weight", "GC D", "DGC", "attention/key"),
  in_layer("self_attn.v_proj.weight", "GC D", "DGC", "attention/value"),
  in_layer("self_attn.o_proj.weight", "D HC", "HCD", "attention/out"),
  in_layer("mlp.gate_proj.weight", "F D", "DF", "mlp/gate"),
  in_layer("mlp.up_proj.weight", "F D", "DF", "mlp/up"),
  in_layer("mlp.down_proj.weight", "D F", "FD", "mlp/down"),
)
NORMS = (
  in_layer("input_layernorm.weight", "D", "D", "attention_norm/scale"),
  in_layer("post_attention_layernorm.weight", "D", "D", "mlp_norm/scale"),
)
HEAD_NORMS = (
  in_layer("self_attn.q_norm.weight", "C", "C", "attention/query_norm/scale"),
  in_layer("self_attn.k_norm.weight", "C", "C", "attention/key_norm/scale"),
)
ROWS = (EMBEDDING, *KERNELS, *NORMS, FINAL_NORM)
NO_BIASES = dict(attention_bias=(False, None), mlp_bias=(False, None))


def sizes(f: Fields, *, tied: bool, head_dim: int | None = None) -> dict:
  """The sizes that all families of these key names share.

  Args:
    f: the config.json.
    tied: the family's default.
    head_dim: the family's default; None: hidden_size / num_attention_heads.
  """
  heads, width = f.size("num_attention_heads"), f.size("hidden_size")
  kv_heads = f.size("num_key_value_heads", heads)
  head_dim = f.size("head_dim", head_dim or max(width // heads, 1))
  if heads % kv_heads or head_dim % 2:
    raise f.error(
      f"num_attention_heads={heads}, num_key_value_heads={kv_heads},"
      f" head_dim={head_dim} do not fit together: want heads a multiple of kv"
      " heads, and an even head_dim"
    )
  return dict(
    vocab_size=f.size("vocab_size"),
    width=width,
    layers=f.size("num_hidden_layers"),
    heads=heads,
    kv_heads=kv_heads,
    head_dim=head_dim,
    mlp_width=f.size("intermediate_size"),
    norm_eps=f.number("rms_norm_eps", 1e-6),
    tied=f.flag("tie_word_embeddings", tied),
    max_length=f.size("max_position_embeddings", 2048),
  )


def rope(f: Fields, found: dict, theta: float = 10_000.0) -> dict:
  """Rotary settings of a model with these sizes."""
  f.only(partial_rotary_factor=(1.0, None))
  theta = f.number("rope_theta", theta)
  own = rope_fields.read(f, found["head_dim"], found["max_length"], theta=theta)
  if own["rotary_dim"] is not None:
    raise f.error("partial_rotary_factor below 1 is not supported here")
  return own


def _read(f: Fields) -> TransformerConfig:
  f.only(hidden_act=("silu", None), **NO_BIASES)
  found = sizes(f, tied=False)
  return TransformerConfig(**found, **rope(f, found))


def write_sizes(config: TransformerConfig) -> dict:
  """Undoes `sizes` and `rope`, for transformers 4 and 5 alike."""
  return {
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
    **rope_fields.write_older(config),
    "rope_parameters": rope_fields.write(config),
    "tie_word_embeddings": config.tied,
    "attention_bias": False,
  }


def _write(config: TransformerConfig) -> dict:
  return write_sizes(config) | {"hidden_act": "silu", "mlp_bias": False}


LLAMA = Family(
  model_type="llama",
  rows=ROWS,
  head=HEAD,
  read=_read,
  write=_write,
  language_model="LlamaForCausalLM",
  reward_model="LlamaForSequenceClassification",
)
