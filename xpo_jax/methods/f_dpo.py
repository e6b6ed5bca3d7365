"""DPO under other divergences than reverse KL (f-DPO)."""

import math
from typing import Literal

import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Array, Feedback, LossInputs, LossOutput


def link(u: Array, divergence: str, alpha: float) -> Array:
  """g(u) = f'(e^u) up to a constant; exponents are clamped to +-80."""
  limit = ops.WIDE_EXPONENT_LIMIT
  if divergence == "forward_kl":
    return -ops.clipped_exp(-u, limit)
  if divergence == "jsd":
    return math.log(2.0) - ops.softplus(-u)
  if divergence == "alpha":
    return -jnp.expm1(jnp.clip(-alpha * u, -limit, limit)) / alpha
  return u


@registry.register(
  paper="https://arxiv.org/abs/2309.16240",
  completions=2,
  feedback={Feedback.ORDER},
  needs={"reference_logps"},
  limits=dict(
    beta=registry.POSITIVE,
    alpha=registry.Limit(lambda v: 0 < v < 1, "must be in (0, 1)"),
  ),
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
    divergence="reverse KL, forward KL, JSD, alpha",
    policy="off",
    iteration="offline",
    sft="separate",
  ),
)
def f_dpo(
  x: LossInputs,
  *,
  beta: float = 0.1,
  divergence: Literal[
    "reverse_kl", "forward_kl", "jsd", "alpha"
  ] = "reverse_kl",
  alpha: float = 0.5,
) -> LossOutput:
  """softplus(-beta (g(u_w) - g(u_l))), u = S - R, g(u) = f'(e^u).

  reverse_kl u (DPO), forward_kl -exp(-u), jsd log 2 + log sigma(u), alpha
  (1 - exp(-alpha u)) / alpha. The exponents of exp are clamped to +-80, with
  gradient 0 beyond.

  Args:
    x: K = 2, chosen first.
    beta: pull to the reference, > 0, 1/nats.
    divergence: D_f(policy, reference) that the reward is traded against.
    alpha: of the alpha divergence, in (0, 1); 0 would be reverse_kl and 1
      forward_kl.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind, keyword or missing reference.

  Reference: Wang et al. 2023, arXiv 2309.16240; methods.md 13.1.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  rewards = beta * link(u, divergence, alpha)
  loss = ops.softplus(rewards[:, 1] - rewards[:, 0])
  metrics = ops.pair_metrics(rewards, x.policy_logps, x.completion_mask)
  return ops.per_prompt(loss, x.weight, metrics)
