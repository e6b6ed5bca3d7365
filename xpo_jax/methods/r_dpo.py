"""Length-regularised DPO (R-DPO)."""

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2403.19159",
  completions=2,
  feedback={Feedback.ORDER},
  needs={"reference_logps"},
  limits=dict(beta=registry.POSITIVE, alpha=registry.NONNEGATIVE),
  survey=registry.Survey(
    reward_model="implicit",
    reward_form="pointwise",
    reward_level="response",
    negative="both",
    feedback="preference",
    arrangement="pair",
    labeler="human",
    reference="yes",
    length_control=True,
    divergence="reverse KL",
    policy="off",
    iteration="offline",
    sft="separate",
  ),
)
def r_dpo(
  x: LossInputs, *, beta: float = 0.1, alpha: float = 0.05
) -> LossOutput:
  """softplus(-(beta h + alpha (N_w - N_l))), N = completion tokens.

  From maximising r - alpha N: a chosen completion that is longer counts as
  partly explained by its length, so its gradient shrinks.

  Args:
    x: K = 2, chosen first.
    beta: pull to the reference, > 0, 1/nats.
    alpha: price >= 0 of a token, nats; 0 = DPO.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind, keyword or missing reference.

  Reference: Park et al. 2024, arXiv 2403.19159; methods.md 9.1. The paper's
  own alpha could not be confirmed.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  length = ops.sequence_length(x.completion_mask, u.dtype)
  longer = length[:, 0] - length[:, 1]
  loss = ops.softplus(-(beta * (u[:, 0] - u[:, 1]) + alpha * longer))
  metrics = ops.pair_metrics(beta * u, x.policy_logps, x.completion_mask)
  metrics["length/chosen"] = length[:, 0]
  metrics["length/rejected"] = length[:, 1]
  return ops.per_prompt(loss, x.weight, metrics)
