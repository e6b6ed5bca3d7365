"""Pairwise preference model: one text with two candidates, answer A or B."""

import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2309.06657",
  completions=2,
  feedback={Feedback.ORDER, Feedback.PROBABILITY},
  needs={"comparison"},
  survey=registry.Survey(
    reward_model="explicit",
    reward_form="preference",
    reward_level="response",
    negative="both",
    feedback="preference",
    arrangement="pair",
    labeler="both",
    reference="no",
    length_control=False,
    divergence="none",
    policy="off",
    iteration="offline",
    sft="separate",
  ),
)
def rm_pairwise(x: LossInputs) -> LossOutput:
  """-p log P - (1 - p) log(1 - P), P = sigma(S_0 - S_1).

  The prompt shows both candidates, in an order drawn when the data are built;
  the two completions are the possible answers, each with its terminator. P is
  the softmax over these two answers alone, and S their sequence log-probs.

  Args:
    x: K = 2 answers. ORDER: index 0 is the correct one (p = 1). PROBABILITY:
      feedback [p, 1 - p] for the two answers.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K or feedback kind.

  Reference: Liu et al. 2023, arXiv 2309.06657 (also 2312.00886); methods.md
  1.4. Judge in both orders with `lists.symmetrised`.
  """
  sums = ops.sequence_sum(x.policy_logps, x.completion_mask)
  gap = sums[:, 0] - sums[:, 1]
  p = ops.preference_probability(
    x.feedback, x.feedback_kind is Feedback.PROBABILITY
  )
  loss = p * ops.softplus(-gap) + (1 - p) * ops.softplus(gap)
  right = ops.frozen(jnp.where(p >= 0.5, gap, -gap))
  metrics = {
    "rewards/margin": right,
    "rewards/accuracy": (right > 0).astype(gap.dtype),
  }
  return ops.per_prompt(loss, x.weight, metrics)
