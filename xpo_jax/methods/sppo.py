"""Self-play preference optimisation (SPPO)."""

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2405.00675",
  completions=(2, None),
  feedback={Feedback.PROBABILITY},
  needs={"reference_logps"},
  limits=dict(eta=registry.POSITIVE),
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
    policy="on",
    iteration="iterative",
    sft="separate",
  ),
)
def sppo(x: LossInputs, *, eta: float = 1000.0) -> LossOutput:
  """Mean over completions of (u_k - eta (P_k - 1/2))^2, u = log-ratio.

  Best and worst of the samples alone (K = 2) is the paper's form.

  Args:
    x: K >= 2 samples of the iterate, which is also the reference; feedback P_k
      = mean over the iterate's samples j of P(k beats j), k itself included as
      1/2. The P_k of a prompt need not sum to 1.
    eta: > 0, nats; the log-ratio wanted of a sure winner is eta / 2.

  Returns:
    loss [B] in nats^2, weight [B].

  Raises:
    XpoError: K = 1, wrong feedback kind, no reference.

  Reference: Wu et al. 2024, arXiv 2405.00675; methods.md 12.2 (soft win
  rates).
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  residual = u - eta * (x.feedback - 0.5)
  loss = ops.row_mean(residual**2, x.present)
  metrics = ops.list_metrics(
    u / eta, x.policy_logps, x.completion_mask, x.feedback, x.present
  )
  metrics["rewards/win_rate"] = ops.prompt_mean(x.feedback, x.present)
  metrics["rewards/distance"] = ops.prompt_mean(abs(residual), x.present)
  return ops.per_prompt(loss, x.weight, metrics)
