"""Supervised fine-tuning on demonstrations (SFT)."""

import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2203.02155",
  completions=(1, None),
  feedback={Feedback.DEMONSTRATION},
  survey=registry.Survey(
    reward_model="likelihood",
    reward_form="none",
    reward_level="token",
    negative="positive",
    feedback="demonstration",
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
def sft(x: LossInputs) -> LossOutput:
  """-log pi(y_t | x, y_<t), a mean over all completion tokens of the batch.

  Args:
    x: K >= 1 demonstrations a prompt.

  Returns:
    loss [B]: sum of token NLL in nats; weight [B]: number of tokens.

  Raises:
    XpoError: feedback is not DEMONSTRATION.

  Reference: Ouyang et al. 2022, arXiv 2203.02155, section 3.5; methods.md 2.0.
  """
  mask = (
    x.completion_mask & x.present[..., None] & (x.weight > 0)[:, None, None]
  )
  nll = -jnp.sum(ops.sequence_sum(x.policy_logps, mask), axis=-1)
  tokens = jnp.sum(mask, axis=(1, 2)).astype(nll.dtype)
  metrics = {"logps/token": -nll / jnp.maximum(tokens, 1)}
  return LossOutput(
    nll * x.weight, tokens, {k: ops.frozen(v) for k, v in metrics.items()}
  )
