"""Process reward model: one label a solution step."""

from typing import Literal

from jax.nn import log_sigmoid
import jax.numpy as jnp

from xpo_jax import ops, returns
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


def solution_score(logits, steps, aggregate):
  """[B, K]: P(every step is right), the least step, or the last step.

  Args:
    logits: [B, K, T] step logits z.
    steps: bool [B, K, T] ends of steps; a solution without one scores 1.
    aggregate: `prod` of sigma(z), `min` or `last`.
  """
  log_p = log_sigmoid(logits)
  if aggregate == "min":
    return jnp.exp(jnp.min(jnp.where(steps, log_p, 0.0), axis=-1))
  counted = steps if aggregate == "prod" else returns.last_token(steps)
  return jnp.exp(ops.sequence_sum(log_p, counted))


@registry.register(
  paper="https://arxiv.org/abs/2305.20050",
  completions=(1, None),
  feedback={Feedback.BINARY},
  needs={"token_scores", "token_feedback"},
  survey=registry.Survey(
    reward_model="explicit",
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
    sft="separate",
  ),
)
def rm_prm(
  x: LossInputs, *, aggregate: Literal["prod", "min", "last"] = "prod"
) -> LossOutput:
  """softplus(z) - c z at the end of every labelled step, one mean over steps.

  Args:
    x: K >= 1 solutions with `token_scores` z [B, K, T] and `token_feedback`
      [B, K, T]: the label c in [0, 1] at a step's last token, NaN at all other
      tokens. `feedback` (the outcome) is not used.
    aggregate: how steps make the solution score of the metrics; the loss is
      the same for all.

  Returns:
    loss [B] in nats, summed over steps; weight [B]: number of labelled steps.

  Raises:
    XpoError: wrong feedback kind, no token scores or step labels.

  Reference: Lightman et al. 2023, arXiv 2305.20050, section 2.6; methods.md
  1.5.
  """
  steps = ops.live_tokens(x) & ~jnp.isnan(x.token_feedback)
  label = jnp.where(steps, x.token_feedback, 0.0)
  logits = x.token_scores
  loss = ops.softplus(logits) - label * logits
  right = ((logits > 0) == (label > 0.5)).astype(logits.dtype)
  solved = solution_score(ops.frozen(logits), steps, aggregate)
  metrics = {
    "rewards/accuracy": ops.prompt_mean(right, steps),
    "rewards/solution": ops.prompt_mean(solved, jnp.any(steps, axis=-1)),
  }
  return ops.per_token(loss, steps, x.weight, metrics)
