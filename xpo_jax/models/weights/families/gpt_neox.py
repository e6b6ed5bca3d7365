"""GPT-NeoX and Pythia: partial rotation, parallel blocks, joined heads."""

from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.models.weights import rope_fields
from xpo_jax.models.weights.families.family import Family
from xpo_jax.models.weights.fields import Fields
from xpo_jax.models.weights.names import Row, row

_QKV = "blocks/attention/query blocks/attention/key blocks/attention/value"
_QKV_BIASES = " ".join(f"{p}_bias" for p in _QKV.split())


def _layer(name: str, file: str, tree: str, paths: str) -> Row:
  return row(f"gpt_neox.layers.{{}}.{name}", file, tree, paths)


def _norm(name: str, path: str) -> tuple[Row, Row]:
  return (
    _layer(f"{name}.weight", "D", "D", f"blocks/{path}/scale"),
    _layer(f"{name}.bias", "D", "D", f"blocks/{path}/bias"),
  )


# Query, key and value of one head lie side by side: HTC, not THC.
ROWS = (
  row("gpt_neox.embed_in.weight", "V D", "VD", "embed/embedding"),
  *_norm("input_layernorm", "attention_norm"),
  *_norm("post_attention_layernorm", "mlp_norm"),
  _layer("attention.query_key_value.weight", "HTC D", "DHC", _QKV),
  _layer("attention.query_key_value.bias", "HTC", "HC", _QKV_BIASES),
  _layer("attention.dense.weight", "D HC", "HCD", "blocks/attention/out"),
  _layer("attention.dense.bias", "D", "D", "blocks/attention/out_bias"),
  _layer("mlp.dense_h_to_4h.weight", "F D", "DF", "blocks/mlp/up"),
  _layer("mlp.dense_h_to_4h.bias", "F", "F", "blocks/mlp/up_bias"),
  _layer("mlp.dense_4h_to_h.weight", "D F", "FD", "blocks/mlp/down"),
  _layer("mlp.dense_4h_to_h.bias", "D", "D", "blocks/mlp/down_bias"),
  row("gpt_neox.final_layer_norm.weight", "D", "D", "final_norm/scale"),
  row("gpt_neox.final_layer_norm.bias", "D", "D", "final_norm/bias"),
)
ACTIVATIONS = {
  "gelu": "gelu",
  "gelu_new": "gelu_tanh",
  "gelu_pytorch_tanh": "gelu_tanh",
}


def _read(f: Fields) -> TransformerConfig:
  f.only(hidden_act=(*ACTIVATIONS, None), attention_bias=(True, None))
  width, heads = f.size("hidden_size"), f.size("num_attention_heads")
  if width % heads:
    raise f.error(
      f"hidden_size={width} is no multiple of num_attention_heads={heads}"
    )
  max_length = f.size("max_position_embeddings", 2048)
  theta = f.number("rotary_emb_base", 10_000.0)
  share = f.number("rotary_pct", 0.25)
  rope = rope_fields.read(
    f, width // heads, max_length, theta=theta, share=share
  )
  return TransformerConfig(
    vocab_size=f.size("vocab_size"),
    width=width,
    layers=f.size("num_hidden_layers"),
    heads=heads,
    kv_heads=heads,
    head_dim=width // heads,
    mlp_width=f.size("intermediate_size"),
    norm_eps=f.number("layer_norm_eps", 1e-5),
    tied=f.flag("tie_word_embeddings", False),
    max_length=max_length,
    family="gpt_neox",
    norm="layer",
    parallel_blocks=f.flag("use_parallel_residual", True),
    biases="all",
    activation=ACTIVATIONS[f.raw.get("hidden_act") or "gelu"],
    gated=False,
    **rope,
  )


def _write(config: TransformerConfig) -> dict:
  rope = rope_fields.write(config)
  # Without the key the library would turn a quarter.
  share = rope.setdefault("partial_rotary_factor", 1.0)
  return {
    "vocab_size": config.vocab_size,
    "hidden_size": config.width,
    "intermediate_size": config.mlp_width,
    "num_hidden_layers": config.layers,
    "num_attention_heads": config.heads,
    "max_position_embeddings": config.max_length,
    "layer_norm_eps": config.norm_eps,
    "hidden_act": (
      "gelu_new" if config.activation == "gelu_tanh" else config.activation
    ),
    "rotary_pct": share,
    "rotary_emb_base": config.rope_theta,
    **rope_fields.write_older(config),
    "rope_parameters": rope,
    "use_parallel_residual": config.parallel_blocks,
    "attention_bias": True,
    "tie_word_embeddings": config.tied,
  }


GPT_NEOX = Family(
  model_type="gpt_neox",
  rows=ROWS,
  head=row("embed_out.weight", "V D", "DV", "head/kernel", "lm_head.weight"),
  read=_read,
  write=_write,
  language_model="GPTNeoXForCausalLM",
  reward_model="GPTNeoXForSequenceClassification",
)
