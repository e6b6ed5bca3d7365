"""Random models of every family, made alike by tests and golden/make_families.

Only numpy, and only its frozen legacy generator, so that any environment makes
the same numbers. Names and shapes of the tensors, and config.json as
transformers 5 writes it, come from golden/families.json: that library's word,
not ours.
"""

import json
from pathlib import Path
import zlib

import numpy as np
from safetensors.numpy import save_file

GOLDEN = Path(__file__).parents[2] / "golden" / "families.json"
PROMPT = tuple(np.random.RandomState(3).randint(0, 67, 24).tolist())
NEW_TOKENS = 32

_LLAMA = {
  "vocab_size": 67,
  "hidden_size": 32,
  "intermediate_size": 48,
  "num_hidden_layers": 3,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "hidden_act": "silu",
  "max_position_embeddings": 128,
  "rms_norm_eps": 1e-2,
  "rope_theta": 500.0,
  "tie_word_embeddings": False,
  "bos_token_id": None,
  "eos_token_id": 2,
  "pad_token_id": None,
}
_GEMMA = {k: v for k, v in _LLAMA.items() if k != "hidden_act"} | {
  "num_hidden_layers": 4,
  "head_dim": 12,
  "hidden_activation": "gelu_pytorch_tanh",
  "query_pre_attn_scalar": 20,
  "sliding_window": 5,
  "tie_word_embeddings": True,
}
_NEOX = {
  "model_type": "gpt_neox",
  "vocab_size": 67,
  "hidden_size": 32,
  "intermediate_size": 48,
  "num_hidden_layers": 3,
  "num_attention_heads": 4,
  "hidden_act": "gelu",
  "max_position_embeddings": 128,
  "layer_norm_eps": 1e-2,
  "rotary_pct": 0.5,
  "rotary_emb_base": 500,
  "use_parallel_residual": True,
  "tie_word_embeddings": False,
  "bos_token_id": None,
  "eos_token_id": 2,
}
# config.json in the layout of transformers 4.
CASES = {
  "llama": _LLAMA
  | {
    "model_type": "llama",
    "head_dim": 12,
    "rope_scaling": {
      "rope_type": "llama3",
      "factor": 8.0,
      "low_freq_factor": 1.0,
      "high_freq_factor": 4.0,
      "original_max_position_embeddings": 48,
    },
  },
  "llama_linear": _LLAMA
  | {
    "model_type": "llama",
    "rope_scaling": {"type": "linear", "factor": 4.0},
    "tie_word_embeddings": True,
  },
  "llama_yarn": _LLAMA
  | {
    "model_type": "llama",
    "head_dim": 16,
    "rope_scaling": {
      "rope_type": "yarn",
      "factor": 4.0,
      "original_max_position_embeddings": 32,
      "beta_fast": 4.0,
      "beta_slow": 0.5,
    },
  },
  "mistral": _LLAMA | {"model_type": "mistral", "sliding_window": 6},
  "qwen2": _LLAMA
  | {
    "model_type": "qwen2",
    "use_sliding_window": True,
    "sliding_window": 6,
    "max_window_layers": 1,
    "tie_word_embeddings": True,
  },
  "qwen3": _LLAMA
  | {
    "model_type": "qwen3",
    "head_dim": 12,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": None,
    "max_window_layers": 3,
  },
  "gemma2": _GEMMA
  | {
    "model_type": "gemma2",
    "attn_logit_softcapping": 3.0,
    "final_logit_softcapping": 1.5,
  },
  "gemma3": _GEMMA
  | {
    "model_type": "gemma3_text",
    "sliding_window_pattern": 3,
    "rope_local_base_freq": 20.0,
    "rope_scaling": {"rope_type": "linear", "factor": 4.0},
  },
  "gpt2": {
    "model_type": "gpt2",
    "vocab_size": 67,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_inner": 48,
    "n_positions": 128,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-2,
    "bos_token_id": 2,
    "eos_token_id": 2,
  },
  "gpt_neox": _NEOX,
  "gpt_neox_serial": _NEOX
  | {"use_parallel_residual": False, "tie_word_embeddings": True},
}


def tensor(name: str, shape: tuple[int, ...], plus_one: bool) -> np.ndarray:
  """float32 noise that depends on the name; large enough that errors show."""
  draw = np.random.RandomState(zlib.crc32(name.encode()))
  x = draw.standard_normal(shape)
  if plus_one and "embed" in name:  # multiplied by sqrt(width) in the model
    x = 0.12 * x
  elif name.endswith(
    ("model.norm.weight", "ln_f.weight", "final_layer_norm.weight")
  ):
    # Of either sign, or a tied model says its last token again and again.
    x = x - 1 if plus_one else x
  elif "norm" in name or ".ln_" in name:
    x = 0.4 * x
    if not plus_one and name.endswith("weight"):
      x = 1 + x
  elif name.endswith("bias"):
    x = 0.5 * x
  elif "proj" in name or "attn" in name or "dense" in name or "mlp" in name:
    x = 0.25 * x
  elif "query_key_value" in name:
    x = 0.25 * x
  return x.astype(np.float32)


def tensors(
  case: str, shapes: dict[str, list[int]], layers: int
) -> dict[str, np.ndarray]:
  """{name in the file: array}; "{}" in a name of `shapes` is the layer."""
  plus_one = case.startswith("gemma")
  made = {}
  for name, shape in shapes.items():
    for i in range(layers) if "{}" in name else [0]:
      full = name.replace("{}", str(i))
      made[full] = tensor(full, tuple(shape), plus_one)
  return made


def layers(case: str) -> int:
  config = CASES[case]
  return config.get("num_hidden_layers") or config["n_layer"]


def write(
  folder: Path, case: str, config: dict, shapes: dict[str, list[int]]
) -> Path:
  """A Hugging Face folder of the case."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").write_text(json.dumps(config))
  save_file(tensors(case, shapes, layers(case)), folder / "model.safetensors")
  return folder


def golden() -> dict:
  return json.loads(GOLDEN.read_text(encoding="utf-8"))
