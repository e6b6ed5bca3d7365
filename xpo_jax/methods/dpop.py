"""DPO-positive (DPOP, Smaug)."""

import jax

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2402.13228",
  completions=2,
  feedback={Feedback.ORDER},
  needs={"reference_logps"},
  limits=dict(beta=registry.POSITIVE, penalty=registry.NONNEGATIVE),
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
def dpop(
  x: LossInputs, *, beta: float = 0.3, penalty: float = 50.0
) -> LossOutput:
  """softplus(-beta (h - penalty relu(-u_w))), u = S - R, h = u_w - u_l.

  The penalty is inside the sigmoid, as in the paper: DPO while the chosen
  log-ratio is not negative, a strong pull upwards once it is.

  Args:
    x: K = 2, chosen first.
    beta: pull to the reference, > 0, 1/nats.
    penalty: the paper's lambda >= 0.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind, keyword or missing reference.

  Reference: Pal et al. 2024, arXiv 2402.13228; methods.md 4.4.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  lack = jax.nn.relu(-u[:, 0])
  loss = ops.softplus(-beta * (u[:, 0] - u[:, 1] - penalty * lack))
  metrics = ops.pair_metrics(beta * u, x.policy_logps, x.completion_mask)
  metrics["logratio/lack"] = ops.frozen(lack)
  metrics["logratio/below_reference"] = (lack > 0).astype(lack.dtype)
  return ops.per_prompt(loss, x.weight, metrics)
