"""Nash mirror descent policy gradient (Nash-MD-PG)."""

import jax.numpy as jnp

from xpo_jax import ops, returns
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2312.00886",
  completions=(1, None),
  feedback={Feedback.PROBABILITY},
  needs=lambda h: {"reference_logps"} if h.tau else set(),
  limits=dict(tau=registry.NONNEGATIVE),
  survey=registry.Survey(
    reward_model="explicit",
    reward_form="preference",
    reward_level="response",
    negative="both",
    feedback="preference",
    arrangement="pair",
    labeler="both",
    reference="yes",
    length_control=False,
    divergence="reverse KL",
    policy="on",
    iteration="iterative",
    sft="separate",
  ),
)
def nash_md(x: LossInputs, *, tau: float = 0.008) -> LossOutput:
  """-sum_t logp_t sg(P - 1/2 - tau sum_(n >= t) u_n), u = logp - reference.

  The KL's reward to go gives its exact gradient. The opponent
  mixes the logits of policy and reference; the rollout samples it.

  Args:
    x: K >= 1 samples of the policy; feedback = P(the sample beats the
      opponent's), from a judge asked in both orders. A sample of the opponent,
      if the batch carries it, has an empty `completion_mask` and is left out.
    tau: >= 0, weight of the KL to the reference; 0 needs no reference.

  Returns:
    loss [B], summed over samples; weight [B]: number of samples.

  Raises:
    XpoError: wrong feedback kind, no reference.

  Reference: Munos et al. 2023, arXiv 2312.00886; methods.md 12.1.
  """
  loss, metrics = returns.nash_policy_loss(x, tau)
  ours = jnp.any(ops.live_tokens(x), axis=-1)
  return ops.per_completion(loss, ours, x.weight, metrics)
