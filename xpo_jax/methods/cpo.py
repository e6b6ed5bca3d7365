"""Contrastive preference optimisation (CPO)."""

from typing import Literal

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2401.08417",
  completions=2,
  feedback={Feedback.ORDER},
  limits=dict(beta=registry.POSITIVE, nll_coef=registry.NONNEGATIVE),
  survey=registry.Survey(
    reward_model="likelihood",
    reward_form="pointwise",
    reward_level="response",
    negative="both",
    feedback="preference",
    arrangement="pair",
    labeler="both",
    reference="no",
    length_control=False,
    divergence="none (NLL anchor)",
    policy="off",
    iteration="offline",
    sft="separate",
  ),
)
def cpo(
  x: LossInputs,
  *,
  beta: float = 0.1,
  nll_coef: float = 1.0,
  nll_norm: Literal["seq_mean", "sum", "batch_token_mean"] = "seq_mean",
) -> LossOutput:
  """softplus(-beta (S_w - S_l)) + nll_coef NLL(y_w), without reference.

  Args:
    x: K = 2, chosen first.
    beta: scale > 0 of the sequence log-probs, 1/nats.
    nll_coef: weight >= 0 of the chosen completion's NLL.
    nll_norm: `seq_mean` (-A_w), `sum` (-S_w), or `batch_token_mean`: a mean
      over the chosen tokens of the batch, a term with its own denominator.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind or keyword, or a reference is given.

  Reference: Xu et al. 2024, arXiv 2401.08417; methods.md 11.3.
  """
  mask = x.completion_mask
  s = ops.sequence_sum(x.policy_logps, mask)
  loss, terms = ops.softplus(-beta * (s[:, 0] - s[:, 1])), {}
  mean_logp = ops.sequence_mean(x.policy_logps, mask)[:, 0]
  if nll_norm == "batch_token_mean":
    nll, tokens = ops.token_nll_term(x.policy_logps[:, 0], mask[:, 0], x.weight)
    terms["nll"] = (nll_coef * nll, tokens)
  elif nll_norm == "sum":
    loss = loss - nll_coef * s[:, 0]
  else:
    loss = loss - nll_coef * mean_logp
  metrics = ops.pair_metrics(beta * s, x.policy_logps, mask)
  metrics["nll/chosen"] = -ops.frozen(mean_logp)
  return ops.per_prompt(loss, x.weight, metrics)._replace(terms=terms)
