"""What a decoder is made of: its sizes, and the details that families vary."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """Stretches a rotary embedding to contexts longer than it was trained for.

  A frequency is divided by `factor` if it turns fewer than `low` times in
  `original_length` tokens, kept if it turns more than `high` times, and mixed
  between. "linear" divides all.

  Sources: "llama3" is Llama 3.1's, "yarn" arXiv 2309.00071.
  """

  kind: str  # linear, llama3, yarn
  factor: float
  original_length: int = 0  # tokens
  low: float = 1.0  # turns
  high: float = 4.0
  magnitude: float = 1.0  # factor of the rotated queries and keys
  truncate: bool = True  # yarn: the mix starts and ends at whole dimensions


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """A decoder; the defaults of the details are Llama's."""

  vocab_size: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  head_dim: int
  mlp_width: int
  rope_theta: float = 10_000.0
  norm_eps: float = 1e-5
  tied: bool = True
  max_length: int = 2048
  family: str = "llama"  # whose names and config.json an export has
  norm: str = "rms"  # rms, rms_plus_one (x 1 + scale), layer
  post_norms: bool = False  # norms after attention and MLP, too
  qk_norm: bool = False  # norms of every query and key head
  parallel_blocks: bool = False  # attention and MLP read the same states
  biases: str = "none"  # none, qkv, all
  activation: str = "silu"  # silu, gelu, gelu_tanh
  gated: bool = True  # activation(x gate) * (x up), or activation(x up)
  embedding_scale: bool = False  # embeddings x sqrt(width)
  learned_positions: bool = False  # a table of max_length, added
  rotary_dim: int | None = None  # places of a head that turn; None: all
  rope_scaling: RopeScaling | None = None
  query_scalar: float = 0.0  # scores are divided by its root; 0: head_dim
  attention_cap: float = 0.0  # scores become cap * tanh(score / cap); 0: off
  logit_cap: float = 0.0  # the same of the vocabulary's logits
  window: int = 0  # tokens that a windowed layer sees, its own included
  windowed: tuple[bool, ...] = ()  # by layer; (): none
  window_rope_theta: float = 0.0  # of windowed layers, unscaled; 0: as others

  def __post_init__(self):
    # JSON gives back lists and objects; a static argument must be hashable.
    if isinstance(self.windowed, list):
      object.__setattr__(self, "windowed", tuple(self.windowed))
    if isinstance(self.rope_scaling, dict):
      scaling = RopeScaling(**self.rope_scaling)
      object.__setattr__(self, "rope_scaling", scaling)
