"""The likeliest completions of prompts: `xpo sample --beams`."""

from collections.abc import Sequence

import jax
import numpy as np

from xpo_jax.models.model import Weights
from xpo_jax.pretrained import Pretrained
from xpo_jax.rollout import requests, search, stops


def completions(
  model: Pretrained,
  ids: Sequence[np.ndarray],
  beams: int,
  max_new_tokens: int,
  end_id: int,
  stop: Sequence[str] = (),
) -> list[list[tuple[str, float]]]:
  """[B][W] (text, sum of its log-probs in nats), the likeliest first.

  Args:
    model: with a tokenizer.
    ids: B prompts, none of them empty.
    beams: W, at least 1, which is greedy decoding.
    max_new_tokens: of a completion, its end among them.
    end_id: the token that ends one.
    stop: texts from which on a completion is cut off; they end no beam.

  Raises:
    XpoError: a prompt leaves no room for the new tokens.
  """
  requests.check_room(ids, max_new_tokens, model.model.config.max_length)
  how = search.Beams(beams, max_new_tokens, end_id)
  weights = Weights({}, model.params)
  found, totals = jax.tree.map(
    np.asarray,
    search.beam_search(model.model, weights, *requests.pad(list(ids)), how),
  )
  return [
    [
      (stops.cut(model.tokenizer.decode(t[m]), stop), float(total))
      for t, m, total in zip(*row, strict=True)
      if np.isfinite(total)
    ]
    for row in zip(found.tokens, found.mask, totals, strict=True)
  ]
