"""Pairwise CRINGE loss."""

import jax

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2312.16682",
  completions=2,
  feedback={Feedback.ORDER},
  needs=lambda h: {"contrast_logps"} if h.alpha else set(),
  limits=dict(
    k=registry.Limit(lambda v: v >= 1, "must be >= 1"),
    alpha=registry.NONNEGATIVE,
    gate_temperature=registry.POSITIVE,
  ),
  survey=registry.Survey(
    reward_model="likelihood",
    reward_form="pointwise",
    reward_level="token",
    negative="both",
    feedback="preference",
    arrangement="pair",
    labeler="both",
    reference="no",
    length_control=False,
    divergence="none",
    policy="off",
    iteration="offline",
    sft="merged",
  ),
)
def pairwise_cringe(
  x: LossInputs,
  *,
  k: int = 5,
  alpha: float = 0.005,
  gate_center: float = -10.0,
  gate_temperature: float = 10.0,
  gate_stop_grad: bool = False,
) -> LossOutput:
  """g (CE(y_w) + alpha Cr(y_l)), g = sigma((b - (S_w - S_l)) / temperature).

  CE is the chosen completion's mean NLL, Cr the mean over the rejected
  completion's tokens of softplus(log p(y_t) - log p(s)), s drawn from the k
  likeliest other tokens. The gate closes once the pair is told apart.

  Args:
    x: K = 2, chosen first, with `contrast_logps` [B, 2, T] = log p(s) if
      alpha > 0.
    k: alternatives to draw s from, >= 1; read where contrast_logps is made.
    alpha: weight >= 0 of Cr.
    gate_center: b, the margin S_w - S_l in nats where the gate is 1/2.
    gate_temperature: its width > 0, nats.
    gate_stop_grad: no gradient through g (it rewards a larger margin too).

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind or keyword, or a reference is given.

  Reference: Xu et al. 2023, arXiv 2312.16682; methods.md 6.2. The defaults
  and whether the authors detach the gate could not be confirmed.
  """
  mask = x.completion_mask
  s = ops.sequence_sum(x.policy_logps, mask)
  margin = s[:, 0] - s[:, 1]
  gate = jax.nn.sigmoid((gate_center - margin) / gate_temperature)
  if gate_stop_grad:
    gate = ops.frozen(gate)
  nll = -ops.sequence_mean(x.policy_logps, mask)[:, 0]
  penalized = nll
  metrics = ops.pair_metrics(s, x.policy_logps, mask) | {
    "cringe/gate": ops.frozen(gate),
    "nll/chosen": ops.frozen(nll),
  }
  if alpha:
    contrast = ops.softplus(x.policy_logps - x.contrast_logps)
    cringe = ops.sequence_mean(contrast, mask)[:, 1]
    penalized = nll + alpha * cringe
    metrics["cringe/rejected"] = ops.frozen(cringe)
  loss = gate * penalized
  return ops.per_prompt(loss, x.weight, metrics)
