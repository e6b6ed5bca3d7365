"""REINFORCE with a leave-one-out baseline (RLOO)."""

import jax.numpy as jnp

from xpo_jax import ops, returns
from xpo_jax.methods import registry
from xpo_jax.types import Array, Feedback, LossInputs, LossOutput


def prepare(x: LossInputs, beta: float, kl_kind: str) -> LossInputs:
  """Fills `advantages`: R_i minus the mean R of the prompt's other samples.

  R = feedback - beta sum_t KL_t, with k1 beta (S_sampler - S_reference); 0 for
  a sample without others.
  """
  rewards = x.feedback
  if beta:
    kl = returns.sampled_kl(x, kl_kind)
    rewards = rewards - beta * ops.sequence_sum(kl, x.completion_mask)
  count = jnp.sum(x.present, axis=-1, keepdims=True).astype(rewards.dtype)
  centered = returns.group_centered(rewards, x.present)
  return returns.spread(centered * count / jnp.maximum(count - 1, 1), x)


def _logratio(x: LossInputs, advantages) -> Array:
  """[B, K] S - S_sampler; a token's slope is its share of the advantage.

  The share is 1 but for importance weights, which differ from token to token:
  it then is the token's weight over their mean.
  """
  mask, mean = x.completion_mask, advantages[..., None]
  share = jnp.where(
    mean == 0, 1.0, x.advantages / jnp.where(mean == 0, 1.0, mean)
  )
  total = ops.frozen(ops.sequence_sum(x.policy_logps - x.sampler_logps, mask))
  moved = x.policy_logps - ops.frozen(x.policy_logps)
  return total + ops.sequence_sum(share * moved, mask)


@registry.register(
  paper="https://arxiv.org/abs/2402.14740",
  completions=(2, None),
  feedback={Feedback.SCORE},
  needs=lambda h: (
    {"advantages"}
    | ({"reference_logps"} if h.beta else set())
    | ({"sampler_logps"} if h.beta or h.clip_low or h.clip_high else set())
  ),
  prepare=prepare,
  prepare_needs=lambda h: returns.exact_kl(h.kl_kind) if h.beta else set(),
  limits=dict(
    beta=registry.NONNEGATIVE,
    clip_low=registry.UNIT,
    clip_high=registry.NONNEGATIVE,
  ),
  survey=registry.Survey(
    reward_model="explicit",
    reward_form="pointwise",
    reward_level="response",
    negative="scalar",
    feedback="preference",
    arrangement="list",
    labeler="human",
    reference="optional",
    length_control=False,
    divergence="reverse KL",
    policy="on",
    iteration="iterative",
    sft="separate",
  ),
)
def rloo(
  x: LossInputs,
  *,
  beta: float = 0.03,
  kl_kind: returns.KLReward = "k1",
  clip_low: float = 0.0,
  clip_high: float = 0.0,
) -> LossOutput:
  """-A S: a sample is one action, S its summed log-prob; a mean over samples.

  With importance weights w in the advantages it is -A sum_t w_t logp_t.

  With a clip range, for several steps a rollout: max(-A rho, -A clip(rho, 1 -
  clip_low, 1 + clip_high)), rho = exp(S - S_sampler), clamped at e^+-20; at rho
  = 1 the gradient is the same.

  Args:
    x: K >= 2 samples, SCORE feedback, after `prepare`.
    beta: >= 0, weight of the sequence KL in the reward; 0 needs no reference.
    kl_kind: k1, k2, k3: its estimator; reverse, forward, js: exact.
    clip_low, clip_high: the range of the ratio; both 0 = REINFORCE, no ratio.

  Returns:
    loss [B], summed over samples; weight [B]: number of samples.

  Raises:
    XpoError: K = 1, wrong feedback kind, a missing column.

  Reference: Ahmadian et al. 2024, arXiv 2402.14740; methods.md 9.3.
  """
  mask = x.completion_mask
  if clip_low or clip_high:
    advantages = ops.sequence_mean(x.advantages, mask)
    logratio = _logratio(x, advantages)
    loss, clipped = returns.clipped_surrogate(
      logratio, advantages, clip_low, clip_high
    )
    ratio = ops.prompt_mean(ops.clipped_exp(logratio), x.present)
    metrics = {
      "policy/clip_fraction": ops.prompt_mean(
        clipped.astype(loss.dtype), x.present
      ),
      "policy/ratio": ratio,
    }
  else:
    loss = -ops.sequence_sum(x.advantages * x.policy_logps, mask)
    metrics = {}
  metrics |= {
    "rewards/mean": ops.prompt_mean(x.feedback, x.present),
    "logps/token": ops.prompt_mean(x.policy_logps, ops.live_tokens(x)),
  }
  return ops.per_completion(loss, x.present, x.weight, metrics)
