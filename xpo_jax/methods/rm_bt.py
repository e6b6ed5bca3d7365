"""Pointwise Bradley-Terry reward model, response level."""

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2203.02155",
  completions=2,
  feedback={Feedback.ORDER, Feedback.PROBABILITY, Feedback.MARGIN},
  needs={"scores"},
  limits=dict(centering=registry.NONNEGATIVE),
  survey=registry.Survey(
    reward_model="explicit",
    reward_form="pointwise",
    reward_level="response",
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
def rm_bt(x: LossInputs, *, centering: float = 0.0) -> LossOutput:
  """p softplus(-d) + (1 - p) softplus(d), d = r_w - r_l - margin.

  ORDER feedback: p = 1, margin 0. PROBABILITY: p = feedback[:, 0], margin 0.
  MARGIN [m, 0]: p = 1 and m is SUBTRACTED, it demands a larger gap.

  Args:
    x: K = 2 with `scores` [B, 2], chosen first.
    centering: c >= 0 of the term c (r_w + r_l)^2 that keeps rewards near 0.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K or feedback kind, no scores.

  Reference: Ouyang et al. 2022, arXiv 2203.02155, eq. 1; margins: Touvron et
  al. 2023, arXiv 2307.09288, eq. 2; methods.md 1.1.
  """
  scores = ops.at_least_f32(x.scores)
  gap = scores[:, 0] - scores[:, 1]
  if x.feedback_kind is Feedback.MARGIN:
    gap = gap - ops.frozen(x.feedback[:, 0] - x.feedback[:, 1])
  p = ops.preference_probability(
    x.feedback, x.feedback_kind is Feedback.PROBABILITY
  )
  loss = p * ops.softplus(-gap) + (1 - p) * ops.softplus(gap)
  if centering:
    loss = loss + centering * (scores[:, 0] + scores[:, 1]) ** 2
  return ops.per_prompt(loss, x.weight, ops.reward_metrics(scores))
