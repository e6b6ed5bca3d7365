"""Exploratory preference optimisation (XPO)."""

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2405.21046",
  completions=2,
  feedback={Feedback.ORDER, Feedback.PROBABILITY},
  needs={"reference_logps"},
  limits=dict(beta=registry.POSITIVE, alpha=registry.NONNEGATIVE),
  survey=registry.Survey(
    reward_model="implicit",
    reward_form="pointwise",
    reward_level="response",
    negative="both",
    feedback="preference",
    arrangement="pair",
    labeler="ai",
    reference="yes",
    length_control=False,
    divergence="reverse KL",
    policy="on",
    iteration="iterative",
    sft="separate",
  ),
)
def xpo(x: LossInputs, *, beta: float = 0.1, alpha: float = 1e-5) -> LossOutput:
  """p softplus(-z) + (1 - p) softplus(z) + alpha S_1, z = beta (u_0 - u_1).

  Index 0 is a sample of the policy, index 1 of the reference; p is the
  probability that index 0 wins. Minimising alpha S_1 moves mass away from the
  reference's samples (optimism). With ORDER feedback index 0 won. A rollout
  leaves out pairs of the same text, which should have neither term.

  Args:
    x: K = 2, the policy's sample first.
    beta: pull to the reference, > 0, 1/nats.
    alpha: strength >= 0 of the exploration; 0 = online DPO.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind, keyword or missing reference.

  Reference: Xie et al. 2024, arXiv 2405.21046, algorithm 1; methods.md 14.13.
  The paper gives no number for alpha.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  s = ops.sequence_sum(x.policy_logps, x.completion_mask)
  z = beta * (u[:, 0] - u[:, 1])
  p = ops.preference_probability(
    x.feedback, x.feedback_kind is Feedback.PROBABILITY
  )
  loss = p * ops.softplus(-z) + (1 - p) * ops.softplus(z) + alpha * s[:, 1]
  metrics = ops.list_metrics(
    beta * u, x.policy_logps, x.completion_mask, x.feedback, x.present
  )
  return ops.per_prompt(loss, x.weight, metrics)
