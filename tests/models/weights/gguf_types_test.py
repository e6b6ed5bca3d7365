"""Every block format decoded by hand, and rope as GGUF files say it."""

import gguf
import numpy as np
import pytest

from tests.models.weights import tiny_gguf
from xpo_jax.errors import Exit, XpoError
from xpo_jax.models.architecture import RopeScaling
from xpo_jax.models.weights import gguf_file

WIDTH = 256  # the K formats have blocks of 256
# Bytes of a block, values in it, where its float16 numbers lie.
BLOCKS = {
  "Q8_0": (34, 32, (0,)),
  "Q4_0": (18, 32, (0,)),
  "Q4_1": (20, 32, (0, 2)),
  "Q4_K": (144, 256, (0, 2)),
  "Q6_K": (210, 256, (208,)),
  "BF16": (2, 1, ()),
  "F16": (2, 1, ()),
}


def half(block, at):
  return float(block[at : at + 2].view(np.float16)[0])


def nibbles(x):
  return np.concatenate([x & 15, x >> 4]).astype(float)


def q8_0(b):
  return half(b, 0) * b[2:].view(np.int8)


def q4_0(b):
  return half(b, 0) * (nibbles(b[2:]) - 8)


def q4_1(b):
  return half(b, 0) * nibbles(b[4:]) + half(b, 2)


def q4_k(b):
  """8 parts of 32; their 6-bit scales and minima share 12 bytes."""
  s, q, out = b[4:16].astype(int), b[16:], []
  for part in range(8):
    if part < 4:
      scale, low = s[part] & 63, s[part + 4] & 63
    else:
      scale = s[part + 4] & 15 | s[part - 4] >> 6 << 4
      low = s[part + 4] >> 4 | s[part] >> 6 << 4
    own = q[part // 2 * 32 :][:32]
    own = own >> 4 if part % 2 else own & 15
    out.append(half(b, 0) * scale * own - half(b, 2) * low)
  return np.concatenate(out)


def q6_k(b):
  """16 parts of 16; 4 low bits in one place, 2 high ones in another."""
  out = np.zeros(256)
  scales = b[192:208].view(np.int8)
  for i in range(256):
    side, quarter, place = i // 128, i % 128 // 32, i % 32
    low = b[side * 64 + quarter % 2 * 32 + place]
    low = low >> 4 if quarter > 1 else low & 15
    high = b[128 + side * 32 + place] >> 2 * quarter & 3
    value = int(low) | int(high) << 4
    out[i] = half(b, 208) * int(scales[i // 16]) * (value - 32)
  return out


def bf16(b):
  return (b.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def f16(b):
  return b.view(np.float16)


DECODE = {
  "Q8_0": q8_0,
  "Q4_0": q4_0,
  "Q4_1": q4_1,
  "Q4_K": q4_k,
  "Q6_K": q6_k,
  "BF16": bf16,
  "F16": f16,
}


def raw_blocks(draw, kind, rows, width=WIDTH):
  """Random bytes [rows, n] whose float16 numbers are moderate."""
  size, values, numbers = BLOCKS[kind]
  if not numbers:
    x = draw.standard_normal((rows, width)).astype(np.float32)
    if kind == "F16":
      return x.astype(np.float16).view(np.uint8)
    return (x.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
  blocks = draw.randint(0, 256, (rows, width // values, size)).astype(np.uint8)
  for at in numbers:
    x = draw.uniform(0.01, 0.1, blocks.shape[:2]).astype(np.float16)
    blocks[..., at : at + 2] = x[..., None].view(np.uint8)
  return blocks.reshape(rows, -1)


def write(path, kind=None, factors=None, **rope):
  """One layer, its kernels raw blocks of `kind` (None: float32)."""
  draw = np.random.RandomState(5)
  writer = gguf.GGUFWriter(path, "llama")
  writer.add_vocab_size(50)
  writer.add_context_length(64)
  writer.add_embedding_length(WIDTH)
  writer.add_block_count(1)
  writer.add_feed_forward_length(WIDTH)
  writer.add_head_count(2)
  writer.add_head_count_kv(1)
  writer.add_rope_freq_base(10_000.0)
  writer.add_layer_norm_rms_eps(1e-5)
  for key, value in rope.items():
    add = writer.add_string if isinstance(value, str) else writer.add_float32
    add(f"llama.rope.scaling.{key}", value)
  writer.add_tokenizer_model("gpt2")
  writer.add_tokenizer_pre("smollm")
  writer.add_token_list(tiny_gguf.TOKENIZER_TOKENS)
  writer.add_token_types([1] * 47 + [3] * 3)
  writer.add_token_merges(['! "'])
  writer.add_eos_token_id(47)
  raw = {}
  for name, rows in (
    ("token_embd", 50),
    ("blk.0.attn_q", WIDTH),
    ("blk.0.attn_k", WIDTH // 2),
    ("blk.0.attn_v", WIDTH // 2),
    ("blk.0.attn_output", WIDTH),
    ("blk.0.ffn_gate", WIDTH),
    ("blk.0.ffn_up", WIDTH),
    ("blk.0.ffn_down", WIDTH),
  ):
    if kind is None:
      x = draw.standard_normal((rows, WIDTH)).astype(np.float32)
      writer.add_tensor(f"{name}.weight", x)
      continue
    raw[name] = raw_blocks(draw, kind, rows)
    writer.add_tensor(
      f"{name}.weight",
      raw[name],
      raw_dtype=gguf.GGMLQuantizationType[kind],
    )
  for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
    writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
  if factors is not None:
    writer.add_tensor("rope_freqs.weight", np.asarray(factors, np.float32))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return raw


@pytest.mark.parametrize("kind", list(BLOCKS))
def test_blocks_decoded_by_hand(kind, tmp_path):
  raw = write(tmp_path / "m.gguf", kind)
  _, params, _ = gguf_file.load_gguf(tmp_path / "m.gguf")
  size = BLOCKS[kind][0]
  decode = lambda rows: np.stack(
    [np.concatenate([DECODE[kind](b) for b in r]) for r in rows]
  )
  blocks = lambda name: raw[name].reshape(len(raw[name]), -1, size)
  near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  near(params["embed"]["embedding"], decode(blocks("token_embd")))
  down = params["blocks"]["mlp"]["down"][0]  # [F, D]
  near(down[:, :9].T, decode(blocks("blk.0.ffn_down")[:9]))
  value = params["blocks"]["attention"]["value"][0].reshape(WIDTH, -1)
  near(value[:, :9].T, decode(blocks("blk.0.attn_v")[:9]))
  assert np.abs(down).max() > 0.5


def test_linear_rope(tmp_path):
  write(tmp_path / "m.gguf", type="linear", factor=4.0)
  config, *_ = gguf_file.load_gguf(tmp_path / "m.gguf")
  assert config.rope_scaling == RopeScaling("linear", 4.0)


def llama3_divisors():
  """32 times slower below 1 turn in 8192 tokens, as is above 4."""
  wave = 2 * np.pi * 10_000.0 ** (np.arange(64) / 64)
  mix = (8192 / wave - 1) / 3
  middle = 1 / ((1 - mix) / 32 + mix)
  return np.where(wave < 2048, 1, np.where(wave > 8192, 32, middle))


def test_llama_3_rope_is_known_by_its_divisors(tmp_path):
  found = llama3_divisors()
  assert ((found > 1) & (found < 32)).any() and found[-1] == 32
  write(tmp_path / "m.gguf", factors=found)
  config, *_ = gguf_file.load_gguf(tmp_path / "m.gguf")
  assert config.rope_scaling == RopeScaling("llama3", 32.0, 8192, 1.0, 4.0)


@pytest.mark.parametrize(
  "how, words",
  [
    (dict(type="yarn", factor=4.0), "rope scaling 'yarn' is not supported"),
    (dict(type="linear"), "rope.scaling.factor=None"),
    (dict(factors=np.linspace(1, 8, 64)), "is not Llama 3's scaling"),
    (dict(factors=np.ones(3)), "is not Llama 3's scaling"),
    (dict(factors=np.full(64, np.nan)), "is not Llama 3's scaling"),
  ],
)
def test_other_ropes_are_refused(how, words, tmp_path):
  path = tmp_path / "m.gguf"
  write(path, **how)
  with pytest.raises(XpoError) as e:
    gguf_file.load_gguf(path)
  assert e.value.code == Exit.CHECKPOINT
  assert words in str(e.value) and str(path) in str(e.value)
