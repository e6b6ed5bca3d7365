"""Direct reward optimisation (DRO-V): single completions with scores."""

from typing import Literal

import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


def _residual_losses(rewards, values, u, tau):
  """(policy loss, value loss) of r - V - tau u, elementwise."""
  advantage = rewards - ops.frozen(values)
  policy = -u * advantage + tau / 2 * u**2
  value = (rewards - values - tau * ops.frozen(u)) ** 2 / 2
  return policy, value


@registry.register(
  paper="https://arxiv.org/abs/2405.19107",
  completions=(1, 2),
  feedback={Feedback.SCORE},
  needs=lambda h: (
    {"reference_logps"} | (set() if h.value == "none" else {"values"})
  ),
  limits=dict(tau=registry.POSITIVE),
  survey=registry.Survey(
    reward_model="implicit",
    reward_form="pointwise",
    reward_level="response",
    negative="scalar",
    feedback="scalar",
    arrangement="one",
    labeler="human",
    reference="yes",
    length_control=False,
    divergence="reverse KL",
    policy="off",
    iteration="offline",
    sft="separate",
  ),
)
def dro(
  x: LossInputs,
  *,
  tau: float = 1.0,
  value: Literal["head", "tokens", "none"] = "head",
) -> LossOutput:
  """-u (r - sg V) + tau u^2 / 2 + (r - V - tau sg u)^2 / 2, u = log-ratio.

  The policy's part is the joint objective (r - V - tau u)^2 / 2 divided by tau,
  the value's part is that objective; each moves only its own parameters. All
  are 0 in gradient at u = (r - V) / tau, whatever the data distribution.

  Args:
    x: SCORE feedback r (normalise it to variance 1 over the data set); K = 1,
      or 2, each completion an example of its own.
    tau: > 0, pull to the reference in units of r per nat.
    value: `head` reads V(x) at the last prompt token. `tokens` (ours) reads V_t
      before each token against the log-ratio still to come, a mean over tokens.
      `none` needs K = 2 and no value: [(r_1 - r_2) - tau (u_1 - u_2)]^2 / 4.

  Returns:
    loss [B] in units of r^2; weight [B]: completions, or 1 for `none`.

  Raises:
    XpoError: K = 1 with value="none", wrong feedback, no reference or values.

  Reference: Richemond et al. 2024, arXiv 2405.19107; methods.md 7.2.
  """
  mask = x.completion_mask
  u = ops.logratio(x.policy_logps, x.reference_logps, mask)
  if value == "none":
    if u.shape[1] != 2:
      raise registry.usage_error(
        "dro with value='none' takes K = 2 scored completions a prompt, the "
        "batch has 1; use value='head' or data with two"
      )
    residual = x.feedback - tau * u
    gap = residual[:, 0] - residual[:, 1]
    metrics = {"value/residual": ops.frozen(gap)}
    weight = jnp.where(jnp.all(x.present, axis=-1), x.weight, 0.0)
    return ops.per_prompt(gap**2 / 4, weight, metrics)
  if value == "tokens":
    to_go = ops.tail_sum(x.policy_logps - x.reference_logps, mask)
    policy, fit = _residual_losses(x.feedback[..., None], x.values, to_go, tau)
    policy, fit = (ops.sequence_mean(part, mask) for part in (policy, fit))
    baseline = ops.sequence_mean(x.values, mask)
  else:
    baseline = x.values[..., 0]
    policy, fit = _residual_losses(x.feedback, baseline, u, tau)
  metrics = {
    "value/loss": ops.prompt_mean(fit, x.present),
    "value/mean": ops.prompt_mean(baseline, x.present),
    "logratio/mean": ops.prompt_mean(u, x.present),
  }
  return ops.per_completion(policy + fit, x.present, x.weight, metrics)
