"""The families that folders of weights are read and written for."""

from xpo_jax.errors import checkpoint_error
from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.models.weights.families.family import Family
from xpo_jax.models.weights.families.gemma import GEMMA2, GEMMA3
from xpo_jax.models.weights.families.gpt2 import GPT2
from xpo_jax.models.weights.families.gpt_neox import GPT_NEOX
from xpo_jax.models.weights.families.llama import LLAMA
from xpo_jax.models.weights.families.mistral import MISTRAL
from xpo_jax.models.weights.families.qwen import QWEN2, QWEN3
from xpo_jax.models.weights.fields import Fields
from xpo_jax.models.weights.names import Row

FAMILIES = {
  f.model_type: f
  for f in (LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA2, GEMMA3, GPT2, GPT_NEOX)
}


def read_config(f: Fields) -> TransformerConfig:
  """Sizes and details, refusing what the decoder does not compute.

  Raises:
    XpoError: (66) another family, or a missing or impossible value.
  """
  kind = f.raw.get("model_type")
  if not isinstance(kind, str) or kind not in FAMILIES:
    raise f.error(
      f"model_type={kind!r} is not supported, only {', '.join(FAMILIES)}"
    )
  return FAMILIES[kind].read(f)


def family_of(config: TransformerConfig) -> Family:
  """The family whose names an export of this config has."""
  if config.family not in FAMILIES:
    raise checkpoint_error(
      f"family {config.family!r} is not known, only {', '.join(FAMILIES)}"
    )
  return FAMILIES[config.family]


def rows_of(config: TransformerConfig) -> tuple[Row, ...]:
  """The name table of a language model of this config."""
  family = family_of(config)
  return family.rows if config.tied else (*family.rows, family.head)
