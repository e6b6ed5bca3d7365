"""Gradient ascent on the NLL: the plain baseline of unlearning."""

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2404.05868",
  completions=1,
  feedback={Feedback.BINARY},
  survey=registry.Survey(
    reward_model="likelihood",
    reward_form="none",
    reward_level="response",
    negative="negative",
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
def ga(x: LossInputs) -> LossOutput:
  """S = sum_t log pi(y_t | x, y_<t): its log-prob is driven down.

  Unbounded below: it destroys the model if it runs long. See `npo`.

  Args:
    x: K = 1; feedback -1 is to be forgotten, all else does not count.

  Returns:
    loss [B] in nats, weight [B].

  Raises:
    XpoError: wrong K or feedback kind.

  Reference: Jang et al. 2022, arXiv 2210.01504; Zhang et al. 2024, arXiv
  2404.05868; methods.md 11.2.
  """
  loss = ops.sequence_sum(x.policy_logps, x.completion_mask)[:, 0]
  weight = ops.forget_weight(x)
  logps = ops.prompt_mean(x.policy_logps, x.completion_mask)
  forget = ops.class_mean(logps, weight > 0, x.weight > 0)
  return ops.per_prompt(loss, weight, {"logps/forget": forget})
