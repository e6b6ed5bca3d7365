"""Shared structs. One idea: B prompts x K completions, with feedback.

Letters: B prompts, K completions, T completion tokens, V vocabulary, D width;
R rows of the model's input, L row length, M targets a row. R and B are sharded
over the mesh axes (data, fsdp); nothing else of a batch is.
"""

import enum
from typing import Any, NamedTuple

from flax import struct
import jax

Array = jax.Array
PyTree = Any


class Feedback(enum.Enum):
  """What `Batch.feedback[b, k]` means."""

  DEMONSTRATION = "demonstration"  # 1: a text to imitate
  BINARY = "binary"  # +1 desirable, -1 undesirable, 0 statistics only
  SCORE = "score"  # any real number, larger is better
  ORDER = "order"  # chosen 1 at index 0, rejected 0 at index 1
  PROBABILITY = "probability"  # P(this completion wins), sums to 1 over a pair
  MARGIN = "margin"  # [margin, 0]: the first wins by this much


@struct.dataclass
class Batch:
  """Packed rows plus where each scored token goes in [B, K, T]."""

  tokens: Array  # int32 [R, L] prompt and completions, EOS included
  positions: Array  # int32 [R, L] a completion continues from its prompt
  group: Array  # int32 [R, L] 0 = padding, else a prompt's number in its row
  branch: Array  # int32 [R, L] 0 = prompt, 1..K = completion
  target_token: Array  # int32 [R, M]
  target_place: Array  # int32 [R, M] place of the state BEFORE the target
  token_place: Array  # int32 [R, M] place of the target itself
  target_slot: Array  # int32 [R, M] flat place in [B, K, T]; B*K*T = padding
  completion_mask: Array  # bool [B, K, T] tokens that count in the loss
  present: Array  # bool [B, K] a completion is here
  ended: Array  # bool [B, K] it ended with EOS
  feedback: Array  # f32 [B, K]
  weight: Array  # f32 [B] 0 for an empty slot
  columns: dict[str, Array] = struct.field(default_factory=dict)  # [B, K, T]
  trunk: Array | None = None  # f32 [R, L, D] states after the frozen blocks
  feedback_kind: Feedback = struct.field(
    pytree_node=False, default=Feedback.ORDER
  )


@struct.dataclass
class LossInputs:
  """All that a loss sees: numbers, no model, no config, no tokenizer.

  `policy_logps` is filled unless the method trains a reward head; the rest is
  filled only as `Method.needs` says and None otherwise. Log-probs are in nats,
  float32 (float64 under x64). Everything but `policy_logps`, `values`,
  `scores`, `token_scores`, `token_kl`, `entropy`, `log_collision` and
  `contrast_logps` is frozen: no gradient flows into it.
  """

  policy_logps: Array | None  # [B, K, T]
  completion_mask: Array  # bool [B, K, T]
  present: Array  # bool [B, K]
  ended: Array  # bool [B, K]
  feedback: Array  # [B, K]
  weight: Array  # [B]
  reference_logps: Array | None = None  # [B, K, T]
  sampler_logps: Array | None = None  # [B, K, T]
  old_values: Array | None = None  # [B, K, T]
  advantages: Array | None = None  # [B, K, T]
  token_feedback: Array | None = None  # [B, K, T]
  values: Array | None = None  # [B, K, T] value head, state before the token
  scores: Array | None = None  # [B, K] reward head, last completion token
  token_scores: Array | None = None  # [B, K, T] reward head, every token
  token_kl: Array | None = None  # [B, K, T] full-vocabulary KL to reference
  entropy: Array | None = None  # [B, K, T]
  log_collision: Array | None = None  # [B, K, T] log sum_v p(v)^2
  contrast_logps: Array | None = None  # [B, K, T] CRINGE's alternative
  state: PyTree | None = None  # the method's running statistics
  noise: Array | None = None  # a PRNG key
  feedback_kind: Feedback = struct.field(
    pytree_node=False, default=Feedback.ORDER
  )
  train: bool = struct.field(pytree_node=False, default=True)


LIVE_INPUTS = (
  "policy_logps",
  "values",
  "scores",
  "token_scores",
  "token_kl",
  "entropy",
  "log_collision",
  "contrast_logps",
)


class LossOutput(NamedTuple):
  """Per-prompt numerators and denominators.

  The step reports and differentiates sum(loss) / sum(weight) over the GLOBAL
  batch, plus sum(numerator) / sum(denominator) of every entry of `terms`.
  """

  loss: Array  # [B] numerators
  weight: Array  # [B] denominators
  metrics: dict[str, Array]  # [B] each, averaged over prompts of weight > 0
  terms: dict[str, tuple[Array, Array]] = {}  # ([B], [B])
  state: PyTree | None = None


@struct.dataclass
class TrainState:
  """Everything that a step changes."""

  step: Array  # int32 []
  params: dict[str, PyTree]  # trainable: {"policy": ..., "value": ...}
  opt_state: PyTree
  key: Array  # PRNG key
  method_state: PyTree | None
  skipped: Array  # int32 [] non-finite steps in a row
  ema_params: PyTree | None = None  # moving average of params["policy"]


@struct.dataclass
class Samples:
  """What the sampler returns. S = new tokens."""

  tokens: Array  # int32 [B, K, S]
  mask: Array  # bool [B, K, S] emitted tokens, EOS included
  sampler_logps: Array  # f32 [B, K, S] at the sampling temperature
  ended: Array  # bool [B, K] EOS was emitted, or a stop string
