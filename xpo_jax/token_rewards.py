"""Rewards of single tokens, by a model trained with rm_token."""

from collections.abc import Callable, Sequence

import numpy as np

from xpo_jax import group_numbers, implicit, score, score_forward
from xpo_jax.data.records import TokenGroup
from xpo_jax.errors import usage_error
from xpo_jax.models.weights.tokenizer import Tokenizer


def open_run(source: str, tokenizer: Tokenizer) -> Callable:
  """groups -> the rewards [n_k] of every completion's tokens, by a run.

  Raises:
    XpoError: not a run of rm_token, or one with another tokenizer.
  """
  found = score.open_run(source)
  if found.method.id != "rm_token":
    raise usage_error(
      f"rollout.token_rewards: {source} is a run of {found.method.id}; name "
      "one of rm_token"
    )
  if found.tokenizer.fingerprint() != tokenizer.fingerprint():
    raise usage_error(
      f"rollout.token_rewards: {source} has another tokenizer than the policy, "
      "so its tokens are not the policy's; train it from the same model"
    )
  reward = implicit.define(found.method, found.settings, None)
  scorer = score_forward.load(
    f"{found.folder}@{found.step}",
    found.config,
    found.method,
    reward,
    found.tokenizer,
  )

  def token_scores(groups: Sequence[TokenGroup]) -> list[list[np.ndarray]]:
    out = [[np.zeros(0, np.float32)] * len(g.completions) for g in groups]
    for n, first, piece, own in group_numbers.numbers(
      scorer, groups, "credits"
    ):
      for k, completion in enumerate(piece.completions):
        out[n][first + k] = own[k, : len(completion)]
    return out

  return token_scores
