"""Statistical rejection sampling optimisation (RSO), its loss."""

from typing import Literal

import jax

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2309.06657",
  completions=2,
  feedback={Feedback.ORDER},
  needs=lambda h: set() if h.loss == "hinge" else {"reference_logps"},
  limits=dict(gamma=registry.POSITIVE),
  survey=registry.Survey(
    reward_model="implicit",
    reward_form="preference",
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
def rso(
  x: LossInputs,
  *,
  gamma: float = 0.05,
  loss: Literal["sigmoid_norm", "hinge_norm", "hinge"] = "sigmoid_norm",
) -> LossOutput:
  """softplus(-z) or relu(1 - z), z = gamma h.

  `sigmoid_norm` is DPO with beta = gamma; `hinge_norm` keeps the reference;
  `hinge` uses h = S_w - S_l without one: SLiC with delta = 1/gamma, times
  gamma. The rejection sampling that makes the pairs belongs to the recipe.

  Args:
    x: K = 2, chosen first.
    gamma: scale > 0 of the log-ratios, 1/nats.
    loss: which of the paper's three losses.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind, keyword or missing reference.

  Reference: Liu et al. 2023, arXiv 2309.06657; methods.md 4.2.
  """
  if loss == "hinge":
    u = ops.sequence_sum(x.policy_logps, x.completion_mask)
  else:
    u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  z = gamma * (u[:, 0] - u[:, 1])
  value = ops.softplus(-z) if loss == "sigmoid_norm" else jax.nn.relu(1 - z)
  metrics = ops.pair_metrics(gamma * u, x.policy_logps, x.completion_mask)
  return ops.per_prompt(value, x.weight, metrics)
