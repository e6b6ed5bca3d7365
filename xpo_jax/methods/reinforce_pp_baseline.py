"""REINFORCE++ with the group mean as baseline."""

from xpo_jax import ops, returns
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


def prepare(x: LossInputs) -> LossInputs:
  """Fills `advantages`: score - group mean, whitened over all tokens."""
  x = returns.spread(returns.group_centered(x.feedback, x.present), x)
  mask = ops.live_tokens(x)
  return x.replace(
    advantages=returns.whiten(x.advantages, mask, floor=returns.VARIANCE_EPS)
  )


@registry.register(
  paper="https://arxiv.org/abs/2501.03262",
  completions=(2, None),
  feedback={Feedback.SCORE},
  needs=lambda h: (
    {"advantages", "sampler_logps"}
    | ({"reference_logps"} if h.kl_coef else set())
  ),
  prepare=prepare,
  limits=dict(
    kl_coef=registry.NONNEGATIVE,
    clip_low=registry.UNIT,
    clip_high=registry.NONNEGATIVE,
  ),
  survey=registry.Survey(
    reward_model="explicit",
    reward_form="pointwise",
    reward_level="response",
    negative="scalar",
    feedback="scalar",
    arrangement="list",
    labeler="both",
    reference="yes",
    length_control=False,
    divergence="reverse KL",
    policy="on",
    iteration="iterative",
    sft="separate",
  ),
)
def reinforce_pp_baseline(
  x: LossInputs,
  *,
  kl_coef: float = 0.01,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
) -> LossOutput:
  """Token mean of the clipped loss + kl_coef * k2, k2 = logratio^2 / 2.

  max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high)), rho = exp(logp -
  sampler's logp), clamped at e^+-20; the KL is to the reference and not in the
  reward.

  Args:
    x: K >= 2 samples of a prompt, SCORE feedback, after `prepare`.
    kl_coef: beta >= 0; 0 needs no reference.
    clip_low, clip_high: the range of the ratio.

  Returns:
    loss [B], summed over tokens; weight [B]: number of tokens.

  Raises:
    XpoError: K = 1, wrong feedback kind, a missing column.

  Reference: Hu 2025, arXiv 2501.03262; methods.md 14.2.
  """
  loss, metrics = returns.group_policy_loss(
    x, beta=kl_coef, clip_low=clip_low, clip_high=clip_high, kl_loss="k2"
  )
  return ops.per_token(loss, ops.live_tokens(x), x.weight, metrics)
