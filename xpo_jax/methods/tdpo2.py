"""Token-level DPO, second form (TDPO2)."""

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2404.11999",
  completions=2,
  feedback={Feedback.ORDER},
  needs=lambda h: (
    {"reference_logps"} | ({"token_kl:forward"} if h.alpha else set())
  ),
  limits=dict(beta=registry.POSITIVE, alpha=registry.NONNEGATIVE),
  survey=registry.Survey(
    reward_model="implicit",
    reward_form="pointwise",
    reward_level="token",
    negative="both",
    feedback="preference",
    arrangement="pair",
    labeler="human",
    reference="yes",
    length_control=False,
    divergence="reverse KL + token forward KL",
    policy="off",
    iteration="offline",
    sft="separate",
  ),
)
def tdpo2(
  x: LossInputs, *, beta: float = 0.1, alpha: float = 0.5
) -> LossOutput:
  """softplus(-beta (h - alpha (K_l - K_w))), no gradient through K_w.

  K = sum over the completion's tokens of KL(reference || policy) over the full
  vocabulary; h = (S_w - R_w) - (S_l - R_l). Unlike in TDPO1 a step cannot
  raise the chosen side's KL to win.

  Args:
    x: K = 2, chosen first; `token_kl` of the forward kind, nats, if alpha > 0.
    beta: pull to the reference, > 0, 1/nats.
    alpha: weight >= 0 of the KL gap; 0 = DPO.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind, keyword or missing reference.

  Reference: Zeng et al. 2024, arXiv 2404.11999; methods.md 5.2.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  h, rewards, more = u[:, 0] - u[:, 1], beta * u, {}
  if alpha:
    kl = ops.sequence_sum(x.token_kl, x.completion_mask)
    h = h - alpha * (kl[:, 1] - ops.frozen(kl[:, 0]))
    rewards = beta * (u + kl)
    more = {"kl/chosen": ops.frozen(kl[:, 0])}
    more["kl/rejected"] = ops.frozen(kl[:, 1])
  loss = ops.softplus(-beta * h)
  metrics = more | ops.pair_metrics(rewards, x.policy_logps, x.completion_mask)
  return ops.per_prompt(loss, x.weight, metrics)
