"""Unlikelihood on rejected texts."""

import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput

CERTAIN = -1e-7  # a likelier token counts as this likely: 16 nats at most


@registry.register(
  paper="https://arxiv.org/abs/1908.04319",
  completions=1,
  feedback={Feedback.BINARY},
  survey=registry.Survey(
    reward_model="likelihood",
    reward_form="none",
    reward_level="token",
    negative="negative",
    feedback="binary",
    arrangement="one",
    labeler="human",
    reference="no",
    length_control=False,
    divergence="none",
    policy="off",
    iteration="offline",
    sft="separate",
  ),
)
def unlikelihood(x: LossInputs) -> LossOutput:
  """-sum_t log(1 - exp(logp_t)).

  Args:
    x: K = 1; feedback -1 is unwanted, all else does not count. Log-probs above
      -1e-7 nats are cut there, value and gradient.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K or feedback kind.

  Reference: Welleck et al. 2019, arXiv 1908.04319; methods.md 11.2.
  """
  logps = jnp.minimum(x.policy_logps, CERTAIN)
  loss = -ops.sequence_sum(ops.log1mexp(logps), x.completion_mask)[:, 0]
  weight = ops.forget_weight(x)
  mean = ops.prompt_mean(x.policy_logps, x.completion_mask)
  forget = ops.class_mean(mean, weight > 0, x.weight > 0)
  return ops.per_prompt(loss, weight, {"logps/forget": forget})
