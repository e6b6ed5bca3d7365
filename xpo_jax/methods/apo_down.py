"""Anchored preference optimisation, down (APO-down)."""

import jax

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2408.06266",
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
    labeler="ai",
    reference="yes",
    length_control=False,
    divergence="reverse KL",
    policy="off",
    iteration="offline",
    sft="separate",
  ),
)
def apo_down(x: LossInputs, *, beta: float = 0.1) -> LossOutput:
  """sigma(beta u_w) + 1 - sigma(beta (u_w - u_l)), u = S - R.

  Lowers both completions, the rejected one more: for a model that is better
  than the chosen texts.

  Args:
    x: K = 2, chosen first.
    beta: pull to the reference, > 0, 1/nats.

  Returns:
    loss [B] in (0, 2), weight [B].

  Raises:
    XpoError: wrong K, feedback kind, keyword or missing reference.

  Reference: D'Oosterlinck et al. 2024, arXiv 2408.06266; methods.md 14.10.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  h = u[:, 0] - u[:, 1]
  loss = jax.nn.sigmoid(beta * u[:, 0]) + jax.nn.sigmoid(-beta * h)
  metrics = ops.pair_metrics(beta * u, x.policy_logps, x.completion_mask)
  return ops.per_prompt(loss, x.weight, metrics)
