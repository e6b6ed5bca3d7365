"""K-wise ranking loss of a pointwise reward model."""

from typing import Literal

import jax.numpy as jnp

from xpo_jax import lists, ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2203.02155",
  completions=(2, None),
  feedback={Feedback.SCORE},
  needs={"scores"},
  survey=registry.Survey(
    reward_model="explicit",
    reward_form="pointwise",
    reward_level="response",
    negative="both",
    feedback="ranks",
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
def rm_kwise(
  x: LossInputs,
  *,
  pair_weighting: Literal["prompt_mean", "pair_mean"] = "prompt_mean",
) -> LossOutput:
  """Mean of softplus(-(r_i - r_j)) over all pairs with i ranked above j.

  The K completions of a prompt are one example: K scores serve all pairs, and
  every prompt weighs the same whatever its K (`prompt_mean`). Prompts whose
  completions are all tied count nowhere.

  Args:
    x: K >= 2 with `scores` [B, K]; feedback orders them, ties allowed.
    pair_weighting: `pair_mean` gives every pair of the batch the same weight,
      so that a prompt weighs K (K - 1) / 2.

  Returns:
    loss [B] in nats; weight [B]: 1 a prompt, or its number of pairs.

  Raises:
    XpoError: wrong K or feedback kind, no scores.

  Reference: Ouyang et al. 2022, arXiv 2203.02155, eq. 1; methods.md 1.2.
  """
  gap = x.scores[:, :, None] - x.scores[:, None, :]
  better = lists.better_pairs(x.feedback, x.present)
  better = better & (x.weight > 0)[:, None, None]
  total = ops.masked_sum(ops.softplus(-gap), better, axis=(1, 2))
  pairs = jnp.sum(better, axis=(1, 2)).astype(total.dtype)
  metrics = {
    "rewards/mean": ops.prompt_mean(x.scores, x.present),
    "rewards/margin": ops.prompt_mean(gap, better),
    "rewards/accuracy": ops.prompt_mean((gap > 0).astype(gap.dtype), better),
  }
  if pair_weighting == "pair_mean":
    return LossOutput(total * x.weight, pairs, metrics)
  mean = total / jnp.maximum(pairs, 1)
  return LossOutput(mean * x.weight, jnp.minimum(pairs, 1), metrics)
