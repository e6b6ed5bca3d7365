"""Writes a random Llama model of `tiny_llama` as GGUF."""

from pathlib import Path

import gguf
import numpy as np

from tests.models.weights import tiny_llama
from xpo_jax.models.weights.tokenizer import byte_letters

LETTERS = byte_letters()[:46]
TOKENIZER_TOKENS = [*LETTERS, '!"', "<|endoftext|>", "<|a|>", "<|b|>"]
NAMES = (
  ("model.embed_tokens.", "token_embd."),
  ("model.norm.", "output_norm."),
  ("lm_head.", "output."),
  ("model.layers.", "blk."),
  ("input_layernorm", "attn_norm"),
  ("post_attention_layernorm", "ffn_norm"),
  ("self_attn.o_proj", "attn_output"),
  ("self_attn.", "attn_"),
  ("mlp.", "ffn_"),
  ("_proj", ""),
)


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
  """Rows of each head in the file's order: 0, C/2, 1, C/2 + 1, ..."""
  width = weight.shape[0] // heads
  order = [
    head * width + half * width // 2 + place
    for head in range(heads)
    for place in range(width // 2)
    for half in (0, 1)
  ]
  return weight[order]


def tensors(case: str) -> dict[str, np.ndarray]:
  c = tiny_llama.hf_config(case)
  made = {}
  for name, value in tiny_llama.tensors(case).items():
    if "q_proj" in name:
      value = interleaved(value, c["num_attention_heads"])
    if "k_proj" in name:
      value = interleaved(value, c["num_key_value_heads"])
    for hf, short in NAMES:
      name = name.replace(hf, short)
    made[name] = value
  return made


def write(
  path: Path,
  case: str,
  architecture="llama",
  change=None,
  pre="smollm",
  eos=47,
  add_bos=False,
):
  """Writes the file; `change` edits {name: array} first."""
  c = tiny_llama.hf_config(case)
  writer = gguf.GGUFWriter(path, architecture)
  writer.add_vocab_size(c["vocab_size"])
  writer.add_context_length(c["max_position_embeddings"])
  writer.add_embedding_length(c["hidden_size"])
  writer.add_block_count(c["num_hidden_layers"])
  writer.add_feed_forward_length(c["intermediate_size"])
  writer.add_head_count(c["num_attention_heads"])
  writer.add_head_count_kv(c["num_key_value_heads"])
  writer.add_key_length(c["head_dim"])
  writer.add_rope_dimension_count(c["head_dim"])
  writer.add_rope_freq_base(c["rope_theta"])
  writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
  writer.add_tokenizer_model("gpt2")
  writer.add_tokenizer_pre(pre)
  writer.add_token_list(TOKENIZER_TOKENS)
  writer.add_token_types([1] * 47 + [3] * 3)
  writer.add_token_merges(['! "'])
  writer.add_eos_token_id(eos)
  writer.add_bos_token_id(48)
  writer.add_add_bos_token(add_bos)
  made = tensors(case)
  if change:
    change(made)
  for name, value in made.items():
    writer.add_tensor(name, value)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path
