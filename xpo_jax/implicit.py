"""The reward of a trained model, as its own method defines it.

A policy that was trained against a reference says r(x, y) = beta u(x, y) + beta
log Z(x) with u = log pi(y | x) - log ref(y | x); Z cannot be known and cancels
between completions of one prompt. Read as a token MDP, beta u splits into the
tokens' advantages beta (log pi_t - log ref_t) (from r to Q). Methods without a
reference score by their own log-probs, reward models by their head. These are
the numbers behind the metrics `rewards/*` of each method.

Source: Rafailov et al. 2023, arXiv 2305.18290, eq. 5, and 2024, arXiv
2404.12358, section 4; the methods' own papers.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.errors import usage_error
from xpo_jax.methods import f_dpo, orpo
from xpo_jax.methods.registry import Method
from xpo_jax.types import Array, LossInputs

# The keyword that scales the log-ratio, where it is not `beta`.
_SCALES = {
  "dno": "eta",
  "dro": "tau",
  "ipo": "tau",
  "nash_ema": "tau",
  "nash_md": "tau",
  "ppo": "kl_coef",
  "reinforce_pp": "kl_coef",
  "reinforce_pp_baseline": "kl_coef",
  "rso": "gamma",
}
_MEANS = ("orpo", "pro", "rrhf", "simpo")  # score by the mean log-prob
_WITH_KL = ("tdpo1", "tdpo2")

Rewards = tuple[Array, Array | None]


@dataclasses.dataclass(frozen=True)
class LogpReward:
  """scale * link(sum or mean over tokens of w log pi - log ref + KL).

  Attributes:
    scale: beta, 1/nats.
    reference: whether log ref is subtracted.
    mean: over the completion's tokens, instead of the sum.
    policy: w, the weight of log pi (H-DPO's alpha).
    token_kl: whether KL(ref || pi) of each place is added (TDPO).
    link: of the whole completion's number; then no token has a credit.
    link_words: what `words` calls it.
  """

  scale: float
  reference: bool
  mean: bool = False
  policy: float = 1.0
  token_kl: bool = False
  link: Callable[[Array], Array] | None = None
  link_words: str = ""

  @property
  def needs(self) -> frozenset[str]:
    """What LossInputs must hold beside the policy's log-probs."""
    names = {"reference_logps"} if self.reference else set()
    return frozenset(names | ({"token_kl:forward"} if self.token_kl else set()))

  @property
  def splits(self) -> bool:
    """Whether the reward is a sum of credits of tokens."""
    return self.link is None

  @property
  def words(self) -> str:
    """The formula, for people."""
    term = "log pi" if self.policy == 1 else f"{self.policy:g} log pi"
    if self.reference:
      kl = " + KL(ref || pi)" if self.token_kl else ""
      term = f"({term} - log ref{kl})"
    text = f"{'mean' if self.mean else 'sum'} over tokens of {term}"
    if self.link is not None:
      text = f"{self.link_words} of the {text}"
    return text if self.scale == 1 else f"{self.scale:g} x {text}"

  def __call__(self, x: LossInputs) -> Rewards:
    """Rewards [B, K] and, if it splits, credits [B, K, T] that sum to them."""
    mask = x.completion_mask
    token = self.policy * ops.at_least_f32(x.policy_logps)
    if self.reference:
      token = token - ops.frozen(x.reference_logps)
    if self.token_kl:
      token = token + x.token_kl
    token = jnp.where(mask, token, 0.0)
    if self.mean:
      token = token / ops.sequence_length(mask, token.dtype)[..., None]
    total = ops.sequence_sum(token, mask)
    if self.link is not None:
      return self.scale * self.link(total), None
    return self.scale * total, self.scale * token


@dataclasses.dataclass(frozen=True)
class HeadReward:
  """What a reward model's head says.

  Attributes:
    aggregate: `last` token's value, or the `sum` or `mean` over tokens.
  """

  aggregate: str

  reference = False

  @property
  def needs(self) -> frozenset[str]:
    """What LossInputs must hold."""
    return frozenset({"scores", "token_scores"})

  @property
  def splits(self) -> bool:
    """Whether the reward is a sum of credits of tokens."""
    return self.aggregate != "last"

  @property
  def words(self) -> str:
    """The formula, for people."""
    if self.splits:
      return f"{self.aggregate} over tokens of the reward head"
    return "the reward head at the last token"

  def __call__(self, x: LossInputs) -> Rewards:
    """Rewards [B, K] and, if it splits, credits [B, K, T] that sum to them."""
    if not self.splits:
      return x.scores, None
    mask = x.completion_mask
    token = jnp.where(mask, x.token_scores, 0.0)
    if self.aggregate == "mean":
      token = token / ops.sequence_length(mask, token.dtype)[..., None]
    return ops.sequence_sum(token, mask), token


Reward = LogpReward | HeadReward


def define(
  method: Method, settings: Mapping[str, Any], beta: float | None = None
) -> Reward:
  """The reward of a model trained by `method` under `settings`.

  With a reference beta u, beta being the keyword that plays its part (tau of
  IPO, gamma of RSO, ..). Without: beta A of SimPO, the log-odds of ORPO, beta S
  of CPO, A of RRHF and PRO, S of all others; A = mean, S = sum of log-probs.
  What a loss does to pairs only (LD-DPO's excess tokens, penalties, offsets,
  R-DPO's lengths) is no part of it.

  Args:
    method: how the model was trained.
    settings: its checked keywords.
    beta: in place of the run's own scale.

  Raises:
    XpoError: a reward model of steps, whose ends only its data know.
  """
  if method.trains_reward:
    return _head_reward(method, settings)
  needs = method.needs(settings)
  # A coefficient of 0 means no pull to a reference: count plain nats.
  scale = settings.get(_SCALES.get(method.id, "beta")) or 1.0
  if method.id == "sppo":
    scale = 1 / settings["eta"]
  link, link_words = _link(method, settings)
  return LogpReward(
    scale=scale if beta is None else beta,
    reference="reference_logps" in needs,
    mean=method.id in _MEANS or bool(settings.get("length_norm")),
    policy=settings["alpha"] if method.id == "h_dpo" else 1.0,
    token_kl=method.id in _WITH_KL,
    link=link,
    link_words=link_words,
  )


def _head_reward(method: Method, settings) -> HeadReward:
  if "scores" in method.needs(settings):
    return HeadReward("last")
  if "token_feedback" in method.needs(settings):
    raise usage_error(
      f"{method.id} scores the steps of a solution, and only its training data "
      "mark where they end; score with a run of rm_bt, rm_orm or rm_token"
    )
  return HeadReward(settings["aggregate"])


def _link(method: Method, settings):
  if method.id == "orpo":
    return orpo.log_odds, "log-odds"
  divergence = settings.get("divergence")
  if method.id == "f_dpo" and divergence != "reverse_kl":
    alpha = settings["alpha"]
    return lambda u: f_dpo.link(u, divergence, alpha), f"f' ({divergence})"
  return None, ""
