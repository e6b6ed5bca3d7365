"""Llama-family GGUF files, dequantised to float32."""

from pathlib import Path

import gguf
import jax
import numpy as np

from xpo_jax.errors import XpoError, checkpoint_error, first_line
from xpo_jax.models import rope
from xpo_jax.models.architecture import RopeScaling
from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.models.weights import gguf_header, names, tokenizer_files
from xpo_jax.models.weights.families import rows_of
from xpo_jax.models.weights.fields import MAX_LAYERS, MAX_SIZE
from xpo_jax.models.weights.tokenizer import Tokenizer
from xpo_jax.types import PyTree

ARCHITECTURE = "llama"
ROPE_FACTORS = "rope_freqs.weight"  # what each frequency is divided by
GGUF_NAMES = {
  "model.embed_tokens": "token_embd",
  "model.norm": "output_norm",
  "lm_head": "output",
  "model.layers": "blk",
  "input_layernorm": "attn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "post_attention_layernorm": "ffn_norm",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
}


def load_gguf(
  path: str | Path,
) -> tuple[TransformerConfig, PyTree, Tokenizer]:
  """Reads a file into (sizes, numpy float32 tree, tokenizer).

  Raises:
    XpoError: (66) not GGUF, damaged, another architecture, or tensors that do
      not fit the header's sizes.
  """
  path = Path(path)
  reader = _open(path)
  try:
    tensors = {t.name: t for t in reader.tensors}
    config = _config(reader, tensors)
    _check_tensors(tensors, config)
    read = lambda name, part: _read(tensors[gguf_name(name)], name, config)[
      part
    ]
    params = names.tree(read, rows_of(config), config)
    params = jax.tree.map(np.asarray, params)
    return config, params, tokenizer_files.tokenizer_from_gguf(reader)
  except XpoError as e:
    raise checkpoint_error(f"{path}: {e}") from e
  except UnicodeDecodeError as e:  # strings are decoded when asked for
    raise checkpoint_error(
      f"{path}: damaged GGUF ({first_line(e)}); copy the file again"
    ) from e


def gguf_name(name: str) -> str:
  """GGUF's name of a Hugging Face tensor name."""
  for hf, short in GGUF_NAMES.items():
    name = name.replace(hf + ".", short + ".")
  return name


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
  """Undoes GGUF's order of query and key rows.

  GGUF keeps each head's rows as interleaved rotary pairs (0, C/2, 1, C/2 + 1,
  ...); ours, like Hugging Face's, are half-split.

  Args:
    weight: [heads * C, D] as in the file.
    heads: query heads, or kv heads for the key.
  """
  rows, width = weight.shape
  pairs = weight.reshape(heads, rows // heads // 2, 2, width)
  return pairs.swapaxes(1, 2).reshape(rows, width)


def _open(path: Path) -> gguf.GGUFReader:
  try:
    gguf_header.check(path)
    return gguf.GGUFReader(path)
  except OSError as e:
    raise checkpoint_error(f"{path}: {e.strerror or first_line(e)}") from e
  except (ValueError, IndexError, KeyError, UnicodeDecodeError) as e:
    raise checkpoint_error(
      f"{path}: damaged GGUF ({first_line(e)}); copy the file again"
    ) from e


def _config(reader, tensors: dict) -> TransformerConfig:
  field = lambda key: _field(reader, key)
  family = field("general.architecture")
  if family != ARCHITECTURE:
    raise checkpoint_error(
      f"architecture {family!r} is not supported, only {ARCHITECTURE!r}"
    )
  own = lambda key: field(f"{ARCHITECTURE}.{key}")
  size = lambda key, default=None: _size(own, key, default)
  width, heads = size("embedding_length"), size("attention.head_count")
  head_dim = size("attention.key_length", width // heads)
  rotated = size("rope.dimension_count", head_dim)
  if rotated != head_dim or own("expert_count"):
    raise checkpoint_error(
      f"rope over {rotated} of {head_dim} dimensions,"
      f" {own('expert_count') or 0} experts: not supported, only rope over all"
      " without experts"
    )
  kv_heads = size("attention.head_count_kv", heads)
  if heads % kv_heads or head_dim % 2:
    raise checkpoint_error(
      f"{heads} heads, {kv_heads} kv heads of {head_dim} do not fit together:"
      " want heads a multiple of kv heads, and an even width"
    )
  tokens = reader.fields.get("tokenizer.ggml.tokens")
  theta = _float(own, "rope.freq_base", 10_000.0)
  return TransformerConfig(
    vocab_size=size("vocab_size", len(tokens.data) if tokens else None),
    width=width,
    layers=size("block_count"),
    heads=heads,
    kv_heads=kv_heads,
    head_dim=head_dim,
    mlp_width=size("feed_forward_length"),
    rope_theta=theta,
    rope_scaling=_scaling(own, tensors, head_dim, theta),
    norm_eps=_float(own, "attention.layer_norm_rms_epsilon", 1e-5),
    tied="output.weight" not in tensors,
    max_length=size("context_length"),
  )


def _scaling(own, tensors: dict, head_dim: int, theta: float):
  """Linear by its key; Llama 3.1's by a tensor of divisors."""
  kind, factors = own("rope.scaling.type") or "none", tensors.get(ROPE_FACTORS)
  if kind == "linear" and factors is None:
    return RopeScaling("linear", _float(own, "rope.scaling.factor", None))
  if kind != "none":
    raise checkpoint_error(
      f"rope scaling {kind!r} is not supported, only linear or none"
    )
  if factors is None:
    return None
  found = np.asarray(factors.data, np.float32).reshape(-1)
  if len(found) != head_dim // 2:  # before anything of that size is made
    raise checkpoint_error(
      f"tensor {ROPE_FACTORS!r} is not Llama 3's scaling: {len(found)} numbers,"
      f" want {head_dim // 2}"
    )
  # The file does not say what made them; Llama 3.1 and later used these.
  guess = RopeScaling("llama3", float(found.max(initial=1.0)), 8192, 1.0, 4.0)
  divisors = [
    np.asarray(rope.frequencies(head_dim, theta, s)) for s in (None, guess)
  ]
  wanted = divisors[0] / divisors[1]
  if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=1e-3):
    raise checkpoint_error(
      f"tensor {ROPE_FACTORS!r} is not Llama 3's scaling; use the model's"
      " Hugging Face folder"
    )
  return guess


def _field(reader, key: str):
  found = reader.fields.get(key)
  return None if found is None else found.contents()


def _size(own, key: str, default: int | None) -> int:
  value = own(key)
  value = default if value is None else value
  if not isinstance(value, int) or not 0 < value <= MAX_SIZE:
    raise checkpoint_error(f"field {key}={value!r}, want a whole number > 0")
  if key == "block_count" and value > MAX_LAYERS:
    raise checkpoint_error(f"field {key}={value}, want at most {MAX_LAYERS}")
  return value


def _float(own, key: str, default: float | None) -> float:
  """The shortest decimal of a float32: 1e-05, not 9.999999747378752e-06."""
  value = own(key)
  value = default if value is None else value
  most = float(np.finfo(np.float32).max)
  if not isinstance(value, float) or not 0 < value <= most:
    raise checkpoint_error(f"field {key}={value!r}, want a number > 0")
  return float(str(np.float32(value)))


def _check_tensors(tensors: dict, config: TransformerConfig) -> None:
  expected = names.expected(rows_of(config), config)
  wanted = {gguf_name(n): s for n, s in expected.items()}
  for what, which in (
    ("misses", set(wanted) - set(tensors)),
    ("has unknown", set(tensors) - set(wanted) - {ROPE_FACTORS}),
  ):
    if which:
      raise checkpoint_error(
        f"{what} tensor {min(which)!r} ({len(which)} in all)"
      )
  for name, shape in wanted.items():
    found = tuple(int(n) for n in reversed(tensors[name].shape))
    if found != shape:
      raise checkpoint_error(
        f"tensor {name!r} has shape {found}, the header says {shape}"
      )


def _read(tensor, name: str, config: TransformerConfig) -> np.ndarray:
  try:
    value = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
  except (NotImplementedError, ValueError) as e:
    raise checkpoint_error(f"tensor {tensor.name!r}: {first_line(e)}") from e
  if not np.isfinite(value).all():
    raise checkpoint_error(f"tensor {tensor.name!r} holds NaN or Inf")
  if ".q_proj." in name:
    return unpermute(value, config.heads)
  if ".k_proj." in name:
    return unpermute(value, config.kv_heads)
  return value
