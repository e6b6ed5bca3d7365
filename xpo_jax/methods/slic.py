"""Sequence likelihood calibration (SLiC-HF)."""

import jax
import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2305.10425",
  completions=(2, 3),
  feedback={Feedback.ORDER},
  limits=dict(delta=registry.NONNEGATIVE, nll_coef=registry.NONNEGATIVE),
  survey=registry.Survey(
    reward_model="likelihood",
    reward_form="pointwise",
    reward_level="response",
    negative="both",
    feedback="preference",
    arrangement="pair",
    labeler="human",
    reference="no",
    length_control=False,
    divergence="none (NLL anchor)",
    policy="off",
    iteration="offline",
    sft="separate",
  ),
)
def slic(
  x: LossInputs,
  *,
  delta: float = 1.0,
  nll_coef: float = 1.0,
  length_norm: bool = False,
) -> LossOutput:
  """relu(delta - S_w + S_l) - nll_coef S_target.

  The target is index 2 where it is present, else the chosen completion. There
  is no reference; at S_w - S_l = delta the hinge has gradient 0.

  Args:
    x: K = 2, chosen first; K = 3 carries an SFT target at index 2.
    delta: wanted gap >= 0 of the sequence log-probs, nats.
    nll_coef: weight >= 0 of the target's NLL.
    length_norm: average instead of summed log-probs, everywhere.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind or keyword, or a reference is given.

  Reference: Zhao et al. 2023, arXiv 2305.10425; methods.md 4.1. The paper
  gives no number for nll_coef.
  """
  reduce = ops.sequence_mean if length_norm else ops.sequence_sum
  s = reduce(x.policy_logps, x.completion_mask)
  target = s[:, 0]
  if s.shape[1] == 3:
    target = jnp.where(x.present[:, 2], s[:, 2], target)
  loss = jax.nn.relu(delta - s[:, 0] + s[:, 1]) - nll_coef * target
  metrics = ops.pair_metrics(
    s[:, :2], x.policy_logps[:, :2], x.completion_mask[:, :2]
  )
  return ops.per_prompt(loss, x.weight, metrics)
