"""CRINGE: likelihood on good texts, token contrast on bad ones."""

from typing import Literal

import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2211.05826",
  completions=1,
  feedback={Feedback.BINARY},
  needs=lambda h: {"contrast_logps"} if h.alpha else set(),
  limits=dict(
    alpha=registry.NONNEGATIVE,
    k=registry.Limit(lambda v: v >= 1, "must be >= 1"),
  ),
  survey=registry.Survey(
    reward_model="likelihood",
    reward_form="pointwise",
    reward_level="token",
    negative="both",
    feedback="binary",
    arrangement="one",
    labeler="human",
    reference="no",
    length_control=False,
    divergence="none",
    policy="off",
    iteration="offline",
    sft="merged",
  ),
)
def cringe(
  x: LossInputs,
  *,
  k: int = 1,
  alpha: float = 1.0,
  norm: Literal["separate", "joint"] = "separate",
) -> LossOutput:
  """CE on good tokens + alpha * softplus(z_t - z_s+) on bad ones.

  z_t is the logit of the data token and z_s+ that of an alternative drawn from
  the k most likely other tokens; a difference of logits is a difference of
  log-probs, so the loss reads `policy_logps` - `contrast_logps`. The gradient
  flows into both. alpha = 0 is SFT on the good texts.

  Args:
    x: K = 1, feedback +1 (good), -1 (bad) or 0 (ignored).
    k: number of alternatives; the trio draws among them, 1 takes the best.
    alpha: weight >= 0 of the contrast.
    norm: `separate` divides each of the two sums by its own tokens, `joint`
      both by all tokens (as ParlAI does).

  Returns:
    loss [B] in nats, summed over tokens; weight [B] tokens; with `separate`
    the contrast is the term "contrast".

  Raises:
    XpoError: wrong K or feedback kind, no contrast log-probs.

  Reference: Adolphs et al. 2022, arXiv 2211.05826; methods.md 6.2.
  """
  live = ops.live_tokens(x)
  good = live & (x.feedback > 0)[..., None]
  bad = live & (x.feedback < 0)[..., None]
  likelihood = ops.per_token(-x.policy_logps, good, x.weight, {})
  out = likelihood._replace(
    metrics={"logps/token": ops.prompt_mean(x.policy_logps, live)}
  )
  if not alpha:
    return out
  gap = x.policy_logps - x.contrast_logps
  penalty = alpha * ops.softplus(gap)
  contrast = ops.per_token(penalty, bad, x.weight, {})
  out.metrics["logps/contrast_margin"] = ops.class_mean(
    ops.prompt_mean(-gap, bad), jnp.any(bad, axis=(1, 2)), x.weight > 0
  )
  if norm == "joint":
    return out._replace(
      loss=likelihood.loss + contrast.loss,
      weight=likelihood.weight + contrast.weight,
    )
  return out._replace(terms={"contrast": (contrast.loss, contrast.weight)})
