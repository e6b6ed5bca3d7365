"""Odds ratio preference optimisation (ORPO)."""

from typing import Literal

import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Array, Feedback, LossInputs, LossOutput

MAX_LOGP = -1e-7  # probability one has no finite odds


def log_odds(mean_logps: Array) -> Array:
  """A - log(1 - e^A) with A clamped to -1e-7, gradient 0 beyond."""
  a = jnp.minimum(mean_logps, MAX_LOGP)
  return a - ops.log1mexp(a)


@registry.register(
  paper="https://arxiv.org/abs/2403.07691",
  completions=2,
  feedback={Feedback.ORDER},
  limits=dict(odds_coef=registry.NONNEGATIVE),
  survey=registry.Survey(
    reward_model="likelihood",
    reward_form="pointwise",
    reward_level="response",
    negative="both",
    feedback="preference",
    arrangement="pair",
    labeler="human",
    reference="no",
    length_control=True,
    divergence="none",
    policy="off",
    iteration="offline",
    sft="merged",
  ),
)
def orpo(
  x: LossInputs,
  *,
  odds_coef: float = 0.1,
  nll_norm: Literal["seq_mean", "sum", "batch_token_mean"] = "seq_mean",
) -> LossOutput:
  """NLL(y_w) + odds_coef softplus(-(lo_w - lo_l)), without reference.

  lo = A - log(1 - e^A), the log-odds of the average log-prob A = S / N.
  Replaces SFT: start from the base model.

  Args:
    x: K = 2, chosen first.
    odds_coef: the paper's lambda >= 0; 0 = SFT on the chosen.
    nll_norm: `seq_mean` (-A_w), `sum` (-S_w), or `batch_token_mean`: a mean
      over the chosen tokens of the batch, a term with its own denominator.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K, feedback kind or keyword, or a reference is given.

  Reference: Hong et al. 2024, arXiv 2403.07691, eq. 6; methods.md 8.1. The
  NLL is of completion tokens; the authors' code includes the prompt.
  """
  mask = x.completion_mask
  mean_logps = ops.sequence_mean(x.policy_logps, mask)
  odds = log_odds(mean_logps)
  gap = odds[:, 0] - odds[:, 1]
  loss, terms = odds_coef * ops.softplus(-gap), {}
  if nll_norm == "batch_token_mean":
    terms["nll"] = ops.token_nll_term(
      x.policy_logps[:, 0], mask[:, 0], x.weight
    )
  elif nll_norm == "sum":
    loss = loss - ops.sequence_sum(x.policy_logps, mask)[:, 0]
  else:
    loss = loss - mean_logps[:, 0]
  metrics = ops.pair_metrics(odds_coef * mean_logps, x.policy_logps, mask)
  metrics["log_odds/margin"] = ops.frozen(gap)
  metrics["nll/chosen"] = -ops.frozen(mean_logps[:, 0])
  return ops.per_prompt(loss, x.weight, metrics)._replace(terms=terms)
