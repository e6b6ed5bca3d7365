"""DPO with a dynamic beta and filtered pairs (beta-DPO)."""

from typing import Literal

import jax
import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Array, Feedback, LossInputs, LossOutput

MIN_BETA = 1e-3


def kept(log_weight: Array, gumbel: Array, live: Array, keep: float) -> Array:
  """bool [B]: max(1, floor(keep n)) of the n live prompts.

  Drawn without replacement in proportion to exp(log_weight): those with the
  largest log_weight + gumbel, of equals the lower index.
  """
  slack = 1e-4  # 0.29 * 100 is 28.999999999999996
  count = jnp.floor(keep * jnp.sum(live) + slack)
  order = ops.ranks(-(log_weight + gumbel), live)
  return live & (order < jnp.maximum(count, 1))


def moments(m: Array, live: Array) -> tuple[Array, Array]:
  """Mean and standard deviation (ddof 1; 0 for a single one) over live."""
  mean = ops.masked_mean(m, live)
  squares = ops.masked_sum((m - mean) ** 2, live)
  return mean, jnp.sqrt(squares / jnp.maximum(jnp.sum(live) - 1, 1))


def advance(state: dict, m: Array, live: Array, momentum: float) -> dict:
  """Moving mean and deviation; the first batch sets them."""
  mean, std = moments(m, live)
  share = jnp.where(state["batches"] > 0, momentum, 0.0)
  mix = lambda old, new: (share * old + (1 - share) * new).astype(old.dtype)
  return {
    "mean": mix(state["mean"], mean),
    "std": mix(state["std"], std),
    "batches": state["batches"] + 1,
  }


def start(settings: dict) -> dict[str, Array]:
  """Running mean and deviation of the discrepancy; batches seen."""
  return {
    "mean": jnp.zeros(()),
    "std": jnp.zeros(()),
    "batches": jnp.zeros((), jnp.int32),
  }


@registry.register(
  paper="https://arxiv.org/abs/2407.08639",
  completions=2,
  feedback={Feedback.ORDER},
  needs=lambda h: {"reference_logps"} | ({"noise"} if h.keep < 1 else set()),
  couples_batch=True,
  init_state=start,
  limits=dict(
    beta=registry.POSITIVE,
    alpha=registry.NONNEGATIVE,
    momentum=registry.UNIT,
    keep=registry.Limit(lambda v: 0 < v <= 1, "must be in (0, 1]"),
  ),
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
def beta_dpo(
  x: LossInputs,
  *,
  beta: float = 0.1,
  alpha: float = 0.6,
  momentum: float = 0.9,
  keep: float = 0.8,
  discrepancy: Literal["logratio", "reward"] = "logratio",
) -> LossOutput:
  """softplus(-b h) over the kept pairs of the batch, b from the batch.

  M = h, or beta h. M0 and s, moving mean and deviation of M, take in this
  batch first; a pair is kept with weight exp(-((M - M0) / s)^2 / 2) (Gumbel
  top-k), and b = max(beta (1 + alpha (mean of M over the kept - M0)), 1e-3).
  Nothing of this has a gradient. In evaluation it is DPO on every pair.

  Args:
    x: K = 2, chosen first; `state` holds M0, s and the batches seen; `noise`
      when keep < 1. Couples the batch.
    beta: the paper's beta_0 > 0, 1/nats.
    alpha: how far beta follows the batch, >= 0; 0 = constant.
    momentum: of M0 and s, in [0, 1].
    keep: share of the pairs kept, in (0, 1].
    discrepancy: M; with alpha / beta for alpha, `reward` equals `logratio`.

  Returns:
    loss [B] in nats, weight [B] (1 for a kept pair), the new state.

  Raises:
    XpoError: wrong K, feedback kind, keyword or missing reference.

  Reference: Wu et al. 2024, arXiv 2407.08639; methods.md 4.5 says where the
  authors' code is followed.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  h = u[:, 0] - u[:, 1]
  live = (x.weight > 0) & jnp.all(x.present, axis=-1)
  m = ops.frozen(h if discrepancy == "logratio" else beta * h)
  state, chosen = x.state, live
  scale = jnp.full((), beta, h.dtype)
  if x.train:
    state = advance(state, m, live, momentum)
    if keep < 1:
      gap = (m - state["mean"]) / jnp.maximum(state["std"], 1e-8)
      gumbel = jax.random.gumbel(x.noise, h.shape, h.dtype)
      chosen = kept(-0.5 * gap**2, gumbel, live, keep)
    shift = ops.masked_mean(m, chosen) - state["mean"]
    scale = jnp.maximum(beta * (1 + alpha * shift), MIN_BETA)
  loss = ops.softplus(-scale * h)
  everywhere = lambda v: jnp.broadcast_to(v, h.shape)
  metrics = ops.pair_metrics(beta * u, x.policy_logps, x.completion_mask) | {
    "beta/batch": everywhere(scale),
    "beta/kept": chosen.astype(h.dtype),
    "discrepancy/mean": everywhere(state["mean"]).astype(h.dtype),
    "discrepancy/std": everywhere(state["std"]).astype(h.dtype),
  }
  weight = jnp.where(chosen, x.weight, 0.0)
  return ops.per_prompt(loss, weight, metrics)._replace(state=state)
