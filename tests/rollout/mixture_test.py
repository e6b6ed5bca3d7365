"""The mixture's draws against geometric means of two distributions."""

import dataclasses

import jax
import numpy as np

from tests import plain_model
from tests import tiny_models as tiny
from xpo_jax.models.model import Model
from xpo_jax.rollout import sampler
from xpo_jax.rollout.mixture import Mixture

CONFIG = dataclasses.replace(tiny.TIED, layers=1)
MODEL = Model(CONFIG)
HOW = sampler.Sampling(completions=3, max_new_tokens=5, eos_id=60)
PROMPTS = np.array([[5, 9, 2], [7, 1, 4]], np.int32)
LENGTHS = np.array([3, 2], np.int32)


def test_logps_are_those_of_the_geometric_mixture():
  one, other = tiny.params(CONFIG, seed=0), tiny.params(CONFIG, seed=1)
  whole = (one, other)
  for weights in whole:
    weights["final_norm"]["scale"] *= 0.3
  parts = [tiny.weights(MODEL, weights) for weights in whole]

  def draw(share):
    weights = Mixture(*parts, np.float32(share))
    key = jax.random.key(4)
    return sampler.generate(MODEL, weights, PROMPTS, LENGTHS, key, HOW)

  def wanted(share, tokens, prompt):
    """p0^(1 - share) p1^share / sum, token by token."""
    out = []
    for t, token in enumerate(tokens):
      ids = np.array([*prompt, *tokens[:t]])
      p = [np.exp(plain_model.logits(CONFIG, w, ids)[-1]) for w in whole]
      p = [x / x.sum() for x in p]
      mixed = p[0] ** (1 - share) * p[1] ** share
      out.append(np.log(mixed[token] / mixed.sum()))
    return out

  drawn = {}
  for share in (0.0, 0.25, 1.0):
    found = jax.tree.map(np.asarray, draw(share))
    drawn[share] = found.tokens
    for b, k in np.ndindex(2, 3):
      prompt = PROMPTS[b, : LENGTHS[b]]
      np.testing.assert_allclose(
        found.sampler_logps[b, k],
        wanted(share, found.tokens[b, k], prompt),
        atol=1e-4,
      )
  assert (drawn[0.0] != drawn[1.0]).any() and (drawn[0.0] != drawn[0.25]).any()
