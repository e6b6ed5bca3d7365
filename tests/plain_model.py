"""The decoder written out for one sequence: what the packed model must equal.

No rows, no groups, no cache, no scan: a loop over layers, a triangle of -inf,
rotations as products of complex numbers.
"""

import jax
import numpy as np


def logits(config, params, ids, xp=np):
  """ids [T] -> [T, V]; xp is numpy, or jax.numpy for gradients."""
  x = states(config, params, ids, xp)
  if config.tied:
    return x @ params["embed"]["embedding"].T
  return x @ params["head"]["kernel"]


def states(config, params, ids, xp=np):
  """ids [T] -> final states [T, D]."""
  x = params["embed"]["embedding"][ids]
  for n in range(config.layers):
    x = block(config, jax.tree.map(lambda p: p[n], params["blocks"]), x, xp)
  return _norm(config, xp, x, params["final_norm"])


def block(config, weights, x, xp=np):
  """One layer: states [T, D] -> [T, D]."""
  mlp = weights["mlp"]
  y = _norm(config, xp, x, weights["attention_norm"])
  x = x + _attention(config, xp, y, weights["attention"])
  y = _norm(config, xp, x, weights["mlp_norm"])
  gate, up = y @ mlp["gate"], y @ mlp["up"]
  return x + (gate / (1 + xp.exp(-gate)) * up) @ mlp["down"]


def logps(config, params, ids):
  """ids [T] -> [T - 1]: log-prob of every token but the first."""
  every = np.log(_softmax(np, logits(config, params, ids)))
  return np.stack([every[t, ids[t + 1]] for t in range(len(ids) - 1)])


def _softmax(xp, x):
  p = xp.exp(x - x.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


def _norm(config, xp, x, weights):
  mean = (x**2).mean(-1, keepdims=True)
  return x / xp.sqrt(mean + config.norm_eps) * weights["scale"][None]


def _attention(config, xp, y, w):
  future = np.triu(np.full((1, len(y), len(y)), -np.inf, np.float32), 1)
  each = config.heads // config.kv_heads  # query heads of one key head
  q = _turn(config, xp, xp.einsum("td,dhc->htc", y, w["query"]))
  k = _turn(config, xp, xp.einsum("td,dgc->gtc", y, w["key"]))
  v = xp.einsum("td,dgc->gtc", y, w["value"])
  k, v = k[np.arange(config.heads) // each], v[np.arange(config.heads) // each]
  scores = xp.einsum("htc,hsc->hts", q, k) / np.sqrt(config.head_dim)
  mixed = xp.einsum("hts,hsc->thc", _softmax(xp, scores + future), v)
  return xp.einsum("thc,hcd->td", mixed, w["out"])


def _turn(config, xp, x):
  """x [heads, T, C] by position."""
  half = config.head_dim // 2
  speed = [config.rope_theta ** (-i / half) for i in range(half)]
  unit = np.exp(1j * np.outer(np.arange(x.shape[1]), speed))
  z = (x[..., :half] + 1j * x[..., half:]) * unit.astype(np.complex64)[None]
  return xp.concatenate([z.real, z.imag], axis=-1)
