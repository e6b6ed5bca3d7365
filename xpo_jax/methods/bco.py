"""Binary classifier optimisation (BCO)."""

from typing import Literal

import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput

EMA_DECAY = 0.9  # ours; the paper does not give its moving average's decay


def _start(h):
  if h["delta_mode"] == "cumulative":
    return {"count": jnp.zeros(()), "mean": jnp.zeros(())}
  return {"mean": jnp.zeros(())} if h["delta_mode"] == "ema" else None


def _shifted(rewards, counted, mode, state, train):
  """(delta, new state) from this batch's rewards [B]."""
  if mode == "zero":
    return jnp.zeros((), rewards.dtype), state
  mean = ops.masked_mean(rewards, counted)
  if mode == "batch":
    return mean, state
  if not train:
    return state["mean"], state
  if mode == "ema":
    mean = EMA_DECAY * state["mean"] + (1 - EMA_DECAY) * mean
    return mean, {"mean": mean}
  seen = jnp.sum(counted).astype(rewards.dtype)
  count = state["count"] + seen
  share = seen / jnp.maximum(count, 1)
  mean = state["mean"] + share * (mean - state["mean"])
  return mean, {"count": count, "mean": mean}


@registry.register(
  paper="https://arxiv.org/abs/2404.04656",
  completions=1,
  feedback={Feedback.BINARY},
  needs={"reference_logps"},
  couples_batch=lambda h: h.delta_mode != "zero",
  limits=dict(beta=registry.POSITIVE),
  init_state=_start,
  survey=registry.Survey(
    reward_model="implicit",
    reward_form="pointwise",
    reward_level="response",
    negative="both",
    feedback="binary",
    arrangement="one",
    labeler="human",
    reference="yes",
    length_control=False,
    divergence="reverse KL",
    policy="off",
    iteration="offline",
    sft="separate",
  ),
)
def bco(
  x: LossInputs,
  *,
  beta: float = 0.01,
  delta_mode: Literal["cumulative", "batch", "ema", "zero"] = "cumulative",
) -> LossOutput:
  """softplus(-(beta u - delta)) if desirable, softplus(beta u - delta) if not.

  delta is a constant: the mean reward beta u of every example seen so far, this
  batch included (`cumulative`), of this batch (`batch`), a moving average with
  decay 0.9 from 0 (`ema`), or 0 (`zero`). Both labels count alike; evaluation
  reads the running value and leaves it.

  Args:
    x: K = 1, feedback +1 or -1 (0 counts for delta only). Weights of the
      paper's prompt classifier belong in `weight`.
    beta: > 0, 1/nats.
    delta_mode: the reward shift.

  Returns:
    loss [B] in nats, weight [B] (every example counts in one denominator).

  Raises:
    XpoError: wrong K or feedback kind, no reference, no state.

  Reference: Jung et al. 2024, arXiv 2404.04656; methods.md 14.8.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  rewards = beta * u[:, 0]
  live = x.weight > 0
  counted = live & x.present[:, 0]
  delta, state = _shifted(
    ops.frozen(rewards), counted, delta_mode, x.state, x.train
  )
  good, bad = x.feedback[:, 0] > 0, x.feedback[:, 0] < 0
  margin = jnp.where(good, 1.0, -1.0).astype(u.dtype) * (rewards - delta)
  loss = jnp.where(good | bad, ops.softplus(-margin), 0.0)
  fixed = ops.frozen(rewards)
  metrics = {
    "rewards/desirable": ops.class_mean(fixed, good & live, live),
    "rewards/undesirable": ops.class_mean(fixed, bad & live, live),
    "rewards/delta": jnp.broadcast_to(delta, fixed.shape),
  }
  metrics["rewards/margin"] = (
    metrics["rewards/desirable"] - metrics["rewards/undesirable"]
  )
  return ops.per_prompt(loss, x.weight, metrics)._replace(state=state)
