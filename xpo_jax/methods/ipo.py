"""Identity preference optimisation (IPO)."""

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2310.12036",
  completions=2,
  feedback={Feedback.ORDER, Feedback.PROBABILITY},
  needs={"reference_logps"},
  limits=dict(tau=registry.POSITIVE),
  survey=registry.Survey(
    reward_model="implicit",
    reward_form="preference",
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
def ipo(
  x: LossInputs, *, tau: float = 0.1, length_norm: bool = False
) -> LossOutput:
  """(h - 1 / (2 tau))^2, h = (S_w - R_w) - (S_l - R_l).

  A PROBABILITY feedback p gives p (h - c)^2 + (1 - p) (h + c)^2 with
  c = 1 / (2 tau), least at h = (2p - 1) c: finite even for sure preferences.

  Args:
    x: K = 2, chosen first.
    tau: pull to the reference, > 0, 1/nats.
    length_norm: average instead of summed log-ratios; the target is then in
      nats a token, so tau must be tuned anew.

  Returns:
    loss [B] in nats^2, weight [B].

  Raises:
    XpoError: wrong K, feedback kind, keyword or missing reference.

  Reference: Azar et al. 2023, arXiv 2310.12036, eq. 17; methods.md 4.6.
  """
  reduce = ops.sequence_mean if length_norm else ops.sequence_sum
  u = reduce(x.policy_logps - x.reference_logps, x.completion_mask)
  h = u[:, 0] - u[:, 1]
  target = 1 / (2 * tau)
  p = ops.preference_probability(
    x.feedback, x.feedback_kind is Feedback.PROBABILITY
  )
  loss = p * (h - target) ** 2 + (1 - p) * (h + target) ** 2
  metrics = ops.pair_metrics(tau * u, x.policy_logps, x.completion_mask)
  return ops.per_prompt(loss, x.weight, metrics)
