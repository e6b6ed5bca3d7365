"""Direct Nash optimisation (DNO)."""

from jax.nn import sigmoid
import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


@registry.register(
  paper="https://arxiv.org/abs/2404.03715",
  completions=(2, None),
  feedback={Feedback.PROBABILITY, Feedback.SCORE},
  needs={"reference_logps"},
  limits=dict(eta=registry.POSITIVE),
  survey=registry.Survey(
    reward_model="implicit",
    reward_form="preference",
    reward_level="response",
    negative="both",
    feedback="preference",
    arrangement="pair",
    labeler="ai",
    reference="yes",
    length_control=False,
    divergence="reverse KL",
    policy="on",
    iteration="iterative",
    sft="separate",
  ),
)
def dno(x: LossInputs, *, eta: float = 0.1) -> LossOutput:
  """Cross entropy of sigma(eta h) with s = sigma(r_i - r_j), h = u_i - u_j.

  A mean over the pairs of a prompt's completions; the minimum is at eta h =
  r_i - r_j. With s = 1 it is DPO with beta = eta: the practical form, on pairs
  with a large margin only, is the method `dpo`.

  Args:
    x: K >= 2 samples of the iterate, which is also the reference; feedback r =
      expected P of beating a sample of the iterate (PROBABILITY), or any other
      reward (SCORE).
    eta: > 0, 1/nats.

  Returns:
    loss [B] in nats, weight [B]; a prompt without a pair counts nowhere.

  Raises:
    XpoError: K = 1, wrong feedback kind, no reference.

  Reference: Rosset et al. 2024, arXiv 2404.03715; methods.md 12.3.
  """
  u = ops.logratio(x.policy_logps, x.reference_logps, x.completion_mask)
  gap = lambda a: a[:, :, None] - a[:, None, :]
  z, s = eta * gap(u), sigmoid(gap(x.feedback))
  pair = s * ops.softplus(-z) + (1 - s) * ops.softplus(z)
  both = x.present[:, :, None] & x.present[:, None, :]
  both = jnp.triu(both, 1)
  pairs = jnp.sum(both, axis=(1, 2)).astype(u.dtype)
  loss = ops.masked_sum(pair, both, axis=(1, 2)) / jnp.maximum(pairs, 1)
  metrics = ops.list_metrics(
    eta * u, x.policy_logps, x.completion_mask, x.feedback, x.present
  )
  weight = jnp.where(pairs > 0, x.weight, 0.0)
  return ops.per_prompt(loss, weight, metrics)
