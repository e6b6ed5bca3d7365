"""Nash-MD's opponent: a token-wise geometric mixture of two policies.

logits = (1 - share) * logits of the policy + share * logits of the reference,
so p is proportional to p_policy^(1 - share) p_reference^share, normalised at
every token. Source: arXiv 2312.00886, section 7; methods.md 12.1.
"""

from flax import struct

from xpo_jax.models.model import Weights
from xpo_jax.types import Array


@struct.dataclass
class Mixture:
  """What the samplers take in the place of `Weights`; one `Model` for both.

  share 0 is the policy, 1 the reference.
  """

  policy: Weights
  reference: Weights
  share: Array | float = 0.25


def parts(weights: Weights | Mixture) -> tuple[Weights, ...]:
  """The models that every token is run through."""
  if isinstance(weights, Mixture):
    return weights.policy, weights.reference
  return (weights,)


def mix(logits: list[Array], weights: Weights | Mixture) -> Array:
  """One array of logits [..., V] a part -> logits [..., V]."""
  if isinstance(weights, Mixture):
    return (1 - weights.share) * logits[0] + weights.share * logits[1]
  return logits[0]
