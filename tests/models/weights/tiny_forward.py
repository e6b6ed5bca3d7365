"""Logits of one plain sequence, through the project's model."""

import jax.numpy as jnp
import numpy as np

from xpo_jax.models import model as models
from xpo_jax.models.transformer import Places, TransformerConfig


def logits(config: TransformerConfig, params, ids) -> np.ndarray:
  """float32 [T, V] for ids [T]."""
  tokens = jnp.asarray(ids, jnp.int32)[None]
  one = jnp.ones_like(tokens)
  places = Places(jnp.arange(len(ids))[None], one, 0 * one)
  model = models.Model(config)
  weights = models.Weights(trunk={}, top=params)
  states = models.hidden(model, weights, tokens, places)
  return np.asarray(models.logits(model, weights, states))[0]
