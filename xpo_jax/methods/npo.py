"""Negative preference optimisation (NPO): unlearning."""

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2404.05868",
  completions=1,
  feedback={Feedback.BINARY},
  needs={"reference_logps"},
  limits=dict(beta=registry.POSITIVE),
  survey=registry.Survey(
    reward_model="implicit",
    reward_form="pointwise",
    reward_level="response",
    negative="negative",
    feedback="binary",
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
def npo(x: LossInputs, *, beta: float = 0.1) -> LossOutput:
  """(2 / beta) softplus(beta u), u = S_policy - S_reference.

  Relative to gradient ascent (`ga`) an example weighs 2 sigma(beta u): 1 at the
  start and fading as u -> -inf, where the loss is 0. Add a retain term as an
  auxiliary `sft` loss.

  Args:
    x: K = 1; feedback -1 is to be forgotten, all else does not count.
    beta: > 0, 1/nats; beta -> 0 is gradient ascent plus a constant.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K or feedback kind, no reference.

  Reference: Zhang et al. 2024, arXiv 2404.05868; methods.md 11.2.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  weight = ops.forget_weight(x)
  bad_only = lambda a: ops.class_mean(a, weight > 0, x.weight > 0)
  logps = ops.prompt_mean(x.policy_logps, x.completion_mask)
  metrics = {
    "rewards/rejected": bad_only(beta * ops.frozen(u[:, 0])),
    "logps/forget": bad_only(logps),
  }
  loss = 2 / beta * ops.softplus(beta * u[:, 0])
  return ops.per_prompt(loss, weight, metrics)
