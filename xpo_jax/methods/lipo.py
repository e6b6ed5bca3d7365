"""Listwise preference optimisation (LiPO) and its family."""

import math
from typing import Literal

import jax
from jax.nn import log_sigmoid, sigmoid
import jax.numpy as jnp

from xpo_jax import lists, ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


def lambda_weights(scores, gains, present, base):
  """[B, K, K]: |2^psi_i - 2^psi_j| |1 / D(rank_i) - 1 / D(rank_j)|, constant.

  D(rank) = log(1 + rank); the best score has rank 1.
  """
  before = lists.ahead(ops.frozen(scores), present)
  rank = 1 + jnp.sum(before, axis=1).astype(scores.dtype)
  discount = (math.log(2) if base == "2" else 1.0) / jnp.log1p(rank)
  gap = lambda a: jnp.abs(a[:, :, None] - a[:, None, :])
  return ops.frozen(gap(jnp.exp2(gains)) * gap(discount))


def _list_loss(scores, labels, present, loss, base):
  """[B] of one member of the family."""
  gap = scores[:, :, None] - scores[:, None, :]
  if loss in ("lambda", "hinge", "logistic"):
    pair = jax.nn.relu(1 - gap) if loss == "hinge" else ops.softplus(-gap)
    if loss == "lambda":
      pair = pair * lambda_weights(scores, labels, present, base)
    better = lists.better_pairs(labels, present)
    return ops.masked_sum(pair, better, axis=(1, 2))
  if loss == "point_mse":
    item = (sigmoid(scores) - labels) ** 2
  elif loss == "point_sigmoid":
    item = -labels * log_sigmoid(scores) - (1 - labels) * log_sigmoid(-scores)
  elif loss == "listmle":
    rounds = jnp.broadcast_to(scores[:, None, :], gap.shape)
    item = lists.plackett_luce(rounds, lists.ahead(labels, present))
  else:
    target = jnp.exp(ops.masked_log_softmax(labels, present))
    item = -target * ops.masked_log_softmax(scores, present)
  return ops.masked_sum(item, present)


@registry.register(
  paper="https://arxiv.org/abs/2402.01878",
  completions=(2, None),
  feedback={Feedback.SCORE},
  needs={"reference_logps"},
  limits=dict(beta=registry.POSITIVE),
  survey=registry.Survey(
    reward_model="implicit",
    reward_form="pointwise",
    reward_level="response",
    negative="both",
    feedback="ranks",
    arrangement="list",
    labeler="ai",
    reference="yes",
    length_control=False,
    divergence="reverse KL",
    policy="off",
    iteration="offline",
    sft="separate",
  ),
)
def lipo(
  x: LossInputs,
  *,
  beta: float = 0.05,
  loss: Literal[
    "lambda",
    "point_mse",
    "point_sigmoid",
    "hinge",
    "logistic",
    "listmle",
    "softmax",
  ] = "lambda",
  log_base: Literal["e", "2"] = "e",
) -> LossOutput:
  """A ranking loss on s_i = beta u_i against the labels psi_i, summed.

  lambda: Delta_ij softplus(-(s_i - s_j)) over pairs psi_i > psi_j, with the
  constant Delta_ij of `lambda_weights`. point_mse: (sigma(s) - psi)^2.
  point_sigmoid: cross entropy of sigma(s) with psi. hinge: relu(1 - (s_i -
  s_j)). logistic: softplus(-(s_i - s_j)), DPO for K = 2. listmle: Plackett-Luce
  in order of psi, of equals the lower index first. softmax: cross entropy of
  softmax(s) with softmax(psi).

  Args:
    x: K >= 2, SCORE feedback psi, in [0, 1] in the paper (a win rate, or a
      rating over its maximum); lambda raises 2 to it.
    beta: > 0, 1/nats.
    loss: the member of the family.
    log_base: of D in `lambda`; 2 multiplies the loss by ln 2.

  Returns:
    loss [B], a sum over pairs or items; weight [B].

  Raises:
    XpoError: wrong K or feedback kind, no reference.

  Reference: Liu et al. 2024, arXiv 2402.01878; methods.md 10.1.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  scores = beta * u
  value = _list_loss(scores, x.feedback, x.present, loss, log_base)
  metrics = ops.list_metrics(
    scores, x.policy_logps, x.completion_mask, x.feedback, x.present
  )
  return ops.per_prompt(value, x.weight, metrics)
