"""Outcome reward model: one label a solution."""

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2110.14168",
  completions=(1, None),
  feedback={Feedback.BINARY},
  needs=lambda h: {"token_scores"} if h.dense else {"scores"},
  survey=registry.Survey(
    reward_model="explicit",
    reward_form="pointwise",
    reward_level="response",
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
def rm_orm(x: LossInputs, *, dense: bool = False) -> LossOutput:
  """softplus(z) - c z with the outcome c in {0, 1}.

  Args:
    x: K >= 1 solutions, feedback +1 (c = 1) or -1 (c = 0), 0 = no label; with
      `scores` [B, K], or `token_scores` [B, K, T] when dense.
    dense: predict the outcome at every token instead of the last one, and take
      the mean over all labelled tokens.

  Returns:
    loss [B] in nats; weight [B]: number of labelled solutions, or of their
    tokens when dense.

  Raises:
    XpoError: wrong feedback kind, no scores.

  Reference: Cobbe et al. 2021, arXiv 2110.14168, section 4.2; methods.md 1.5.
  """
  labelled = x.present & (x.feedback != 0) & (x.weight > 0)[:, None]
  label = (x.feedback > 0).astype(x.feedback.dtype)
  logits = x.scores
  if dense:
    labelled = x.completion_mask & labelled[..., None]
    label = label[..., None]
    logits = x.token_scores
  loss = ops.softplus(logits) - label * logits
  right = ((logits > 0) == (label > 0)).astype(loss.dtype)
  metrics = {
    "rewards/mean": ops.prompt_mean(logits, labelled),
    "rewards/accuracy": ops.prompt_mean(right, labelled),
  }
  reduce = ops.per_token if dense else ops.per_completion
  return reduce(loss, labelled, x.weight, metrics)
