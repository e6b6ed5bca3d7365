"""GPT-2: learned positions, layer norms, biases, one joined projection."""

from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.models.weights.families.family import Family
from xpo_jax.models.weights.fields import Fields
from xpo_jax.models.weights.names import Row, row

_QKV = "blocks/attention/query blocks/attention/key blocks/attention/value"
_QKV_BIASES = " ".join(f"{p}_bias" for p in _QKV.split())


def _layer(name: str, file: str, tree: str, paths: str) -> Row:
  return row(f"transformer.h.{{}}.{name}", file, tree, paths)


# Its linear layers are [in, out], unlike all others'.
ROWS = (
  row("transformer.wte.weight", "V D", "VD", "embed/embedding"),
  row("transformer.wpe.weight", "P D", "PD", "embed/positions"),
  _layer("ln_1.weight", "D", "D", "blocks/attention_norm/scale"),
  _layer("ln_1.bias", "D", "D", "blocks/attention_norm/bias"),
  _layer("attn.c_attn.weight", "D THC", "DHC", _QKV),
  _layer("attn.c_attn.bias", "THC", "HC", _QKV_BIASES),
  _layer("attn.c_proj.weight", "HC D", "HCD", "blocks/attention/out"),
  _layer("attn.c_proj.bias", "D", "D", "blocks/attention/out_bias"),
  _layer("ln_2.weight", "D", "D", "blocks/mlp_norm/scale"),
  _layer("ln_2.bias", "D", "D", "blocks/mlp_norm/bias"),
  _layer("mlp.c_fc.weight", "D F", "DF", "blocks/mlp/up"),
  _layer("mlp.c_fc.bias", "F", "F", "blocks/mlp/up_bias"),
  _layer("mlp.c_proj.weight", "F D", "FD", "blocks/mlp/down"),
  _layer("mlp.c_proj.bias", "D", "D", "blocks/mlp/down_bias"),
  row("transformer.ln_f.weight", "D", "D", "final_norm/scale"),
  row("transformer.ln_f.bias", "D", "D", "final_norm/bias"),
)
ACTIVATIONS = {
  "gelu_new": "gelu_tanh",
  "gelu_pytorch_tanh": "gelu_tanh",
  "gelu": "gelu",
}


def _read(f: Fields) -> TransformerConfig:
  f.only(
    activation_function=(*ACTIVATIONS, None),
    scale_attn_weights=(True, None),
    scale_attn_by_inverse_layer_idx=(False, None),
  )
  width, heads = f.size("n_embd"), f.size("n_head")
  if width % heads:
    raise f.error(f"n_embd={width} is no multiple of n_head={heads}")
  return TransformerConfig(
    vocab_size=f.size("vocab_size"),
    width=width,
    layers=f.size("n_layer"),
    heads=heads,
    kv_heads=heads,
    head_dim=width // heads,
    mlp_width=f.size("n_inner", 4 * width),
    norm_eps=f.number("layer_norm_epsilon", 1e-5),
    tied=f.flag("tie_word_embeddings", True),
    max_length=f.size("n_positions", 1024),
    family="gpt2",
    norm="layer",
    biases="all",
    activation=ACTIVATIONS[f.raw.get("activation_function") or "gelu_new"],
    gated=False,
    learned_positions=True,
    rotary_dim=0,
  )


def _write(config: TransformerConfig) -> dict:
  return {
    "vocab_size": config.vocab_size,
    "n_embd": config.width,
    "n_layer": config.layers,
    "n_head": config.heads,
    "n_inner": config.mlp_width,
    "n_positions": config.max_length,
    "layer_norm_epsilon": config.norm_eps,
    "activation_function": (
      "gelu_new" if config.activation == "gelu_tanh" else config.activation
    ),
    "tie_word_embeddings": config.tied,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
  }


GPT2 = Family(
  model_type="gpt2",
  rows=ROWS,
  head=row("lm_head.weight", "V D", "DV", "head/kernel"),
  read=_read,
  write=_write,
  language_model="GPT2LMHeadModel",
  reward_model="GPT2ForSequenceClassification",
)
