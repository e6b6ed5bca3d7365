"""Direct preference optimisation (DPO)."""

import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


def _ld_mask(mask):
  """Tokens past the shorter completion of a pair (LD-DPO's excess part)."""
  place = jnp.cumsum(mask, axis=-1)
  shorter = jnp.min(jnp.sum(mask, axis=-1), axis=-1)
  return place > shorter[:, None, None]


@registry.register(
  paper="https://arxiv.org/abs/2305.18290",
  completions=2,
  feedback={Feedback.ORDER, Feedback.PROBABILITY, Feedback.MARGIN},
  needs=lambda h: set() if h.reference_free else {"reference_logps"},
  limits=dict(
    beta=registry.POSITIVE,
    label_smoothing=registry.SMOOTHING,
    offset=registry.NONNEGATIVE,
    nll_coef=registry.NONNEGATIVE,
    ld_alpha=registry.UNIT,
  ),
  survey=registry.Survey(
    reward_model="implicit",
    reward_form="pointwise",
    reward_level="response",
    negative="both",
    feedback="preference",
    arrangement="pair",
    labeler="human",
    reference="yes",
    length_control=False,
    divergence="reverse KL",
    policy="off",
    iteration="offline",
    sft="separate",
  ),
)
def dpo(
  x: LossInputs,
  *,
  beta: float = 0.1,
  label_smoothing: float = 0.0,
  reference_free: bool = False,
  length_norm: bool = False,
  offset: float = 0.0,
  nll_coef: float = 0.0,
  ld_alpha: float = 1.0,
) -> LossOutput:
  """-log sigma(beta h), h = (S_w - R_w) - (S_l - R_l).

  With smoothing e: (1 - e) softplus(-z) + e softplus(z), z = beta h - offset *
  margin; a PROBABILITY feedback p takes the place of 1 - e (then smoothed).
  `length_norm` divides each log-ratio by its length; `ld_alpha` < 1 weighs
  tokens past the shorter completion (LD-DPO); `nll_coef` adds a * (-A_w).

  Args:
    x: K = 2, chosen first. MARGIN feedback [m, 0] scales `offset` (ODPO).
    beta: pull to the reference, > 0, 1/nats.
    label_smoothing: conservative DPO's e in [0, 0.5).
    reference_free: R = 0; then no reference is needed.
    length_norm: average instead of summed log-ratios.
    offset: ODPO's alpha >= 0, times the margin (times 1 without one).
    nll_coef: weight >= 0 of the chosen completion's mean NLL.
    ld_alpha: weight in [0, 1] of the excess tokens; 1 = plain DPO.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind, keyword or missing reference.

  Reference: Rafailov et al. 2023, arXiv 2305.18290, eq. 7; cDPO note (Mitchell
  2023); ODPO 2402.10571; LD-DPO 2409.06411; RPO 2404.19733.
  """
  token = ops.at_least_f32(x.policy_logps)
  if not reference_free:
    token = token - ops.frozen(x.reference_logps)
  if ld_alpha != 1.0:
    excess = _ld_mask(x.completion_mask)
    token = jnp.where(excess, ld_alpha * token, token)
  reduce = ops.sequence_mean if length_norm else ops.sequence_sum
  u = reduce(token, x.completion_mask)
  rewards = beta * u
  z = rewards[:, 0] - rewards[:, 1]
  if offset:
    gap = 1.0
    if x.feedback_kind is Feedback.MARGIN:
      gap = ops.frozen(x.feedback[:, 0] - x.feedback[:, 1])
    z = z - offset * gap
  p = ops.preference_probability(
    x.feedback, x.feedback_kind is Feedback.PROBABILITY
  )
  p = p * (1 - label_smoothing) + (1 - p) * label_smoothing
  loss = p * ops.softplus(-z) + (1 - p) * ops.softplus(z)
  if nll_coef:
    mean_logp = ops.sequence_mean(x.policy_logps, x.completion_mask)[:, 0]
    loss = loss - nll_coef * mean_logp
  metrics = ops.pair_metrics(rewards, x.policy_logps, x.completion_mask)
  return ops.per_prompt(loss, x.weight, metrics)
