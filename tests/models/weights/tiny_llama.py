"""Random Llama models that a test and `golden/make_weights.py` both make.

Only numpy, and only its frozen legacy generator, so that any environment makes
the same numbers.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

TOKENS = (3, 41, 7, 7, 0, 49, 12, 30, 5, 18, 26, 1)
CASES = {
  "untied": dict(tie_word_embeddings=False, rope_theta=5000.0),
  "tied": dict(tie_word_embeddings=True, rope_theta=100.0),
}


def hf_config(case: str) -> dict:
  """config.json in the older layout; head_dim is not width / heads."""
  return {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-2,
    "hidden_act": "silu",
    "bos_token_id": None,
    "eos_token_id": 2,
  } | CASES[case]


def tensors(case: str) -> dict[str, np.ndarray]:
  """{Hugging Face name: float32 array}, drawn large so that errors show."""
  c = hf_config(case)
  draw = np.random.RandomState(17)
  width, mlp = c["hidden_size"], c["intermediate_size"]
  q = c["num_attention_heads"] * c["head_dim"]
  kv = c["num_key_value_heads"] * c["head_dim"]
  normal = lambda *shape, scale: (
    scale * draw.standard_normal(shape).astype(np.float32)
  ).astype(np.float32)
  made = {"model.embed_tokens.weight": normal(c["vocab_size"], width, scale=1)}
  for i in range(c["num_hidden_layers"]):
    layer = f"model.layers.{i}."
    for name, rows, columns in (
      ("self_attn.q_proj", q, width),
      ("self_attn.k_proj", kv, width),
      ("self_attn.v_proj", kv, width),
      ("self_attn.o_proj", width, q),
      ("mlp.gate_proj", mlp, width),
      ("mlp.up_proj", mlp, width),
      ("mlp.down_proj", width, mlp),
    ):
      made[f"{layer}{name}.weight"] = normal(rows, columns, scale=0.3)
    for name in ("input_layernorm", "post_attention_layernorm"):
      made[f"{layer}{name}.weight"] = 1 + normal(width, scale=0.3)
  made["model.norm.weight"] = 1 + normal(width, scale=0.3)
  if not c["tie_word_embeddings"]:
    made["lm_head.weight"] = normal(c["vocab_size"], width, scale=1)
  return {k: v.astype(np.float32) for k, v in made.items()}


def write(folder: Path, case: str, **changes) -> Path:
  """A folder of this model; `changes` go into config.json (None removes)."""
  folder.mkdir(parents=True, exist_ok=True)
  config = {
    k: v for k, v in (hf_config(case) | changes).items() if v is not None
  }
  (folder / "config.json").write_text(json.dumps(config))
  save_file(tensors(case), folder / "model.safetensors")
  return folder
