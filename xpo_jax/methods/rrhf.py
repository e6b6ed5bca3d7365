"""Rank responses to align with human feedback (RRHF)."""

from typing import Literal

import jax

from xpo_jax import lists, ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2304.05302",
  completions=(1, None),
  feedback={Feedback.SCORE},
  limits=dict(rank_coef=registry.NONNEGATIVE, nll_coef=registry.NONNEGATIVE),
  survey=registry.Survey(
    reward_model="likelihood",
    reward_form="pointwise",
    reward_level="response",
    negative="both",
    feedback="ranks",
    arrangement="list",
    labeler="both",
    reference="no",
    length_control=True,
    divergence="none",
    policy="off",
    iteration="offline",
    sft="merged",
  ),
)
def rrhf(
  x: LossInputs,
  *,
  rank_coef: float = 1.0,
  nll_coef: float = 1.0,
  nll_norm: Literal["sum", "seq_mean", "batch_token_mean"] = "sum",
) -> LossOutput:
  """rank_coef sum_{r_i < r_j} relu(A_i - A_j) + nll_coef NLL(best).

  A is the mean log-prob of a completion's tokens. No reference.

  Args:
    x: K >= 1, SCORE feedback r; best = highest, the first of equals. K = 1 is
      SFT.
    rank_coef: weight >= 0 of the ranking hinge, a sum over pairs.
    nll_coef: weight >= 0 of the best completion's NLL.
    nll_norm: `sum` over its tokens (the paper), `seq_mean`, or one mean over
      the best completions' tokens of the batch, a term of its own.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong feedback kind.

  Reference: Yuan et al. 2023, arXiv 2304.05302; methods.md 10.2.
  """
  mask = x.completion_mask
  mean = ops.sequence_mean(x.policy_logps, mask)
  better = lists.better_pairs(x.feedback, x.present)  # [b, j, i]: r_j > r_i
  excess = mean[:, None, :] - mean[:, :, None]
  rank = ops.masked_sum(jax.nn.relu(excess), better, axis=(1, 2))
  best = lists.best_completion(x)
  logps, best_mask = lists.pick(x.policy_logps, best), lists.pick(mask, best)
  metrics = {
    "rewards/violated": ops.prompt_mean(
      (excess > 0).astype(mean.dtype), better
    ),
    "logps/best": ops.prompt_mean(logps, best_mask),
  }
  loss = rank_coef * rank
  if nll_norm == "batch_token_mean":
    nll, tokens = ops.token_nll_term(logps, best_mask, x.weight)
    out = ops.per_prompt(loss, x.weight, metrics)
    return out._replace(terms={"nll": (nll_coef * nll, tokens)})
  reduce = ops.sequence_sum if nll_norm == "sum" else ops.sequence_mean
  loss = loss - nll_coef * reduce(logps, best_mask)
  return ops.per_prompt(loss, x.weight, metrics)
