"""Reward model from rejected completions only; self samples stand in."""

import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2407.16216",
  completions=(2, None),
  feedback={Feedback.BINARY},
  needs={"scores"},
  survey=registry.Survey(
    reward_model="explicit",
    reward_form="pointwise",
    reward_level="response",
    negative="negative",
    feedback="binary",
    arrangement="list",
    labeler="human",
    reference="no",
    length_control=False,
    divergence="none",
    policy="off",
    iteration="offline",
    sft="separate",
  ),
)
def rm_negative(x: LossInputs) -> LossOutput:
  """softplus(-(mean_i r(y_i) - r(y_l))), y_1 .. y_K the model's own samples.

  Args:
    x: K self samples (feedback +1), then the rejected completion (-1), with
      `scores` [B, K + 1]. Absent samples leave the mean.

  Returns:
    loss [B] in nats; weight [B], 0 where either side is absent.

  Raises:
    XpoError: wrong K or feedback kind, no scores.

  Reference: Wang et al. 2024, arXiv 2407.16216, section 2.1.4 (the reward-model
  form of D2O, arXiv 2403.03419); methods.md 1.6.
  """
  rejected = x.scores[:, -1]
  own = ops.row_mean(x.scores[:, :-1], x.present[:, :-1])
  both = jnp.any(x.present[:, :-1], axis=-1) & x.present[:, -1]
  weight = jnp.where(both, x.weight, 0.0)
  rewards = jnp.stack([own, rejected], axis=-1)
  loss = ops.softplus(rejected - own)
  return ops.per_prompt(loss, weight, ops.reward_metrics(rewards))
