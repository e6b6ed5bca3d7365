"""Binary classifier optimisation on pairs (BCO, no shift)."""

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2404.04656",
  completions=2,
  feedback={Feedback.ORDER},
  needs={"reference_logps"},
  limits=dict(beta=registry.POSITIVE),
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
def bco_pair(x: LossInputs, *, beta: float = 0.01) -> LossOutput:
  """softplus(-beta u_w) + softplus(beta u_l), u = S - R.

  The binary form with its shift delta at 0, summed over the pair; an upper
  bound of DPO's loss.

  Args:
    x: K = 2, chosen first.
    beta: pull to the reference, > 0, 1/nats.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind, keyword or missing reference.

  Reference: Jung et al. 2024, arXiv 2404.04656; methods.md 14.8.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  loss = ops.softplus(-beta * u[:, 0]) + ops.softplus(beta * u[:, 1])
  metrics = ops.pair_metrics(beta * u, x.policy_logps, x.completion_mask)
  return ops.per_prompt(loss, x.weight, metrics)
