"""Token-level Bradley-Terry reward model."""

from typing import Literal

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2407.16216",
  completions=2,
  feedback={Feedback.ORDER, Feedback.PROBABILITY},
  needs={"token_scores"},
  survey=registry.Survey(
    reward_model="explicit",
    reward_form="pointwise",
    reward_level="token",
    negative="both",
    feedback="preference",
    arrangement="pair",
    labeler="human",
    reference="no",
    length_control=False,
    divergence="none",
    policy="off",
    iteration="offline",
    sft="separate",
  ),
)
def rm_token(
  x: LossInputs, *, aggregate: Literal["sum", "mean"] = "sum"
) -> LossOutput:
  """p softplus(-d) + (1 - p) softplus(d), d = R_w - R_l, R = sum_t r_t.

  Args:
    x: K = 2, chosen first, with `token_scores` [B, 2, T]. ORDER feedback means
      p = 1, PROBABILITY p = feedback[:, 0].
    aggregate: `mean` divides R by the number of tokens.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K or feedback kind, no token scores.

  Reference: Wang et al. 2024, arXiv 2407.16216, section 2.1.3; methods.md 1.5.
  """
  reduce = ops.sequence_sum if aggregate == "sum" else ops.sequence_mean
  rewards = reduce(x.token_scores, x.completion_mask)
  gap = rewards[:, 0] - rewards[:, 1]
  p = ops.preference_probability(
    x.feedback, x.feedback_kind is Feedback.PROBABILITY
  )
  loss = p * ops.softplus(-gap) + (1 - p) * ops.softplus(gap)
  return ops.per_prompt(loss, x.weight, ops.reward_metrics(rewards))
