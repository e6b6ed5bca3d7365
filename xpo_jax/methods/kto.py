"""Kahneman-Tversky optimisation (KTO)."""

from typing import Literal

from jax.nn import sigmoid
import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput

EMA_DECAY = 0.9  # ours; the paper has no moving z0


@registry.register(
  paper="https://arxiv.org/abs/2402.01306",
  completions=(1, 2),
  feedback={Feedback.BINARY},
  needs=lambda h: (
    {"reference_logps"}
    | (set() if h.z0_mode == "zero" else {"mismatched_completion"})
  ),
  couples_batch=lambda h: h.z0_mode != "zero",
  limits=dict(
    beta=registry.POSITIVE,
    lambda_desirable=registry.NONNEGATIVE,
    lambda_undesirable=registry.NONNEGATIVE,
  ),
  init_state=lambda h: {"z0": jnp.zeros(())} if h["z0_mode"] == "ema" else None,
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
def kto(
  x: LossInputs,
  *,
  beta: float = 0.1,
  lambda_desirable: float = 1.0,
  lambda_undesirable: float = 1.0,
  z0_mode: Literal["batch", "zero", "ema"] = "batch",
) -> LossOutput:
  """lambda_D (1 - sigma(beta (u - z0))) or lambda_U (1 - sigma(beta (z0 - u))).

  u is the sequence log-ratio of index 0. z0 = stop_gradient(max(0, mean u'))
  over the mismatched completions at index 1 of the global batch (`batch`), a
  moving average of that mean with decay 0.9 (`ema`), or 0 (`zero`).

  Args:
    x: BINARY feedback at index 0 (+1 or -1); K = 2 when z0 is estimated, with
      another prompt's completion and feedback 0 at index 1.
    beta: > 0, 1/nats.
    lambda_desirable: weight >= 0 of feedback +1.
    lambda_undesirable: weight >= 0 of feedback -1.
    z0_mode: the reference point.

  Returns:
    loss [B], weight [B] (every example counts in one denominator).

  Raises:
    XpoError: K = 1 when z0 is estimated, wrong feedback, missing reference.

  Reference: Ethayarajh et al. 2024, arXiv 2402.01306, eq. 8; methods.md 7.1.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  state = x.state
  z0 = jnp.zeros((), u.dtype)
  if z0_mode != "zero":
    if u.shape[1] < 2:
      raise registry.usage_error(
        f"kto with z0_mode={z0_mode!r} needs another prompt's completion at "
        "index 1 (K = 2); the batch has K = 1: use z0_mode='zero' or add it"
      )
    counted = x.present[:, 1] & (x.weight > 0)
    mean = ops.frozen(ops.masked_mean(u[:, 1], counted))
    if z0_mode == "ema":
      mean = EMA_DECAY * state["z0"] + (1 - EMA_DECAY) * mean
      state = {"z0": mean} if x.train else state
    z0 = jnp.maximum(mean, 0.0)
  good = x.feedback[:, 0] > 0
  bad = x.feedback[:, 0] < 0
  sign = jnp.where(good, 1.0, -1.0).astype(u.dtype)
  scale = jnp.where(good, lambda_desirable, lambda_undesirable)
  loss = scale * sigmoid(-beta * sign * (u[:, 0] - z0))
  loss = jnp.where(good | bad, loss, 0.0)
  reward = beta * ops.frozen(u[:, 0])
  live = x.weight > 0
  metrics = {
    "rewards/desirable": ops.class_mean(reward, good & live, live),
    "rewards/undesirable": ops.class_mean(reward, bad & live, live),
    "kl/z0": jnp.broadcast_to(z0, reward.shape),
  }
  metrics["rewards/margin"] = (
    metrics["rewards/desirable"] - metrics["rewards/undesirable"]
  )
  return ops.per_prompt(loss, x.weight, metrics)._replace(state=state)
