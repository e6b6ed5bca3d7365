"""Alignment by optimal transport, paired (AOT)."""

import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2406.05882",
  completions=2,
  feedback={Feedback.ORDER},
  needs={"reference_logps"},
  couples_batch=True,
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
def aot(x: LossInputs, *, beta: float = 0.01) -> LossOutput:
  """softplus(-beta (a_(i) - c_(i))), both sorted over the batch.

  a = S_w - S_l and c = R_w - R_l; the i-th smallest a meets the i-th smallest
  c. The order has no gradient. A loss is returned at the pair that a is of.

  Args:
    x: K = 2, chosen first. Couples the batch.
    beta: pull to the reference, > 0, 1/nats.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind, keyword or missing reference.

  Reference: Melnyk et al. 2024, arXiv 2406.05882; methods.md 14.9.
  """
  s = ops.sequence_sum(x.policy_logps, x.completion_mask)
  r = ops.sequence_sum(x.reference_logps, x.completion_mask)
  live = (x.weight > 0) & jnp.all(x.present, axis=-1)
  gap = s[:, 0] - s[:, 1]
  reference_gaps = jnp.sort(jnp.where(live, r[:, 0] - r[:, 1], jnp.inf))
  matched = jnp.where(live, reference_gaps[ops.ranks(gap, live)], 0.0)
  loss = ops.softplus(-beta * (gap - matched))
  metrics = ops.pair_metrics(beta * (s - r), x.policy_logps, x.completion_mask)
  return ops.per_prompt(loss, jnp.where(live, x.weight, 0.0), metrics)
