"""Windows by positions, soft caps and scales, against loops over tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny_models as tiny
from tests.models import transformer_test as plain
from xpo_jax.models import attention as attentions
from xpo_jax.models import model as lm
from xpo_jax.models import rope
from xpo_jax.models.architecture import RopeScaling
from xpo_jax.models.layers import Norm
from xpo_jax.models.model import Model, Weights

GEMMA = dataclasses.replace(
  tiny.TIED,
  norm="rms_plus_one",
  post_norms=True,
  qk_norm=True,
  activation="gelu_tanh",
  embedding_scale=True,
  query_scalar=9.0,
  attention_cap=2.0,
  logit_cap=10.0,
  window=3,
  windowed=(True, False, True),
  window_rope_theta=7.0,
)


def windowed(q, k, v, window, scale, cap):
  """One sequence: q [T, H, C], k and v [T, G, C], in float64."""
  out = np.zeros(q.shape)
  each = q.shape[1] // k.shape[1]
  for t, h in np.ndindex(q.shape[:2]):
    seen = range(max(0, t - window + 1), t + 1)
    score = np.array([q[t, h] @ k[s, h // each] for s in seen]) * scale
    weight = np.exp(cap * np.tanh(score / cap))
    weight = weight / weight.sum()
    out[t, h] = sum(w * v[s, h // each] for w, s in zip(weight, seen))
  return out


@pytest.mark.parametrize("chunk", [512, 5])
def test_windows_count_positions_not_places_in_the_row(chunk, monkeypatch):
  monkeypatch.setattr(attentions, "QUERY_CHUNK", chunk)
  noise = np.random.default_rng(1)
  places, sequences = plain.random_places(noise)
  q, k, v = plain.random_qkv(noise, places)
  found = attentions.attention(
    q, k, v, places, places, window=jnp.asarray(2), scale=0.7, cap=1.3
  )
  assert max(len(own) for _, own in sequences) > 3
  for r, own in sequences:
    parts = (x[r, own].astype(float) for x in (q, k, v))
    wanted = windowed(*parts, window=2, scale=0.7, cap=1.3)
    np.testing.assert_allclose(found[r, own], wanted, atol=2e-6)


def test_packed_rows_of_windowed_layers_equal_every_sequence_alone():
  model, params = Model(GEMMA), tiny.params(GEMMA)
  prompt, one, two = [7, 3, 9, 1], [4, 4, 8, 1, 5, 2], [30, 2, 6]
  other = ([12, 13], [(1, [14, 15, 16, 40, 41])])
  run = jax.jit(
    lambda tokens, places: lm.logits(
      model,
      Weights({}, params),
      lm.hidden(model, Weights({}, params), tokens, places),
    )
  )
  row = (prompt, [(1, one), (2, two)])
  found = run(*tiny.one_row(row, other))[0]
  pad = lambda ids: ids + [0] * (18 - len(ids))
  for ids, at in (
    (prompt + one, range(10)),
    (prompt + two, [*range(4), *range(10, 13)]),
    ([12, 13, 14, 15, 16, 40, 41], range(13, 20)),
  ):
    alone = run(*tiny.one_row((pad(ids), []), ([0, 0], [])))[0]
    tiny.assert_near(found[np.array(at)], alone[: len(ids)], 1e-5)
  assert 5 < np.abs(found).max() <= GEMMA.logit_cap


def test_frequencies_of_scaled_ropes_spelled_out():
  plain_ = 100.0 ** -np.array([0, 0.25, 0.5, 0.75])
  near = lambda scaling, wanted: np.testing.assert_allclose(
    rope.frequencies(8, 100.0, scaling), wanted, rtol=1e-6
  )
  near(None, plain_)
  near(RopeScaling("linear", 4.0), plain_ / 4)
  # Turns in 63 tokens: 10.03, 3.17, 1.003, 0.317.
  turns = 63 * plain_ / (2 * np.pi)
  keep = np.array([1, (turns[1] - 1) / 3, (turns[2] - 1) / 3, 0])
  near(
    RopeScaling("llama3", 8.0, 63, 1.0, 4.0),
    keep * plain_ + (1 - keep) * plain_ / 8,
  )
  # 4 turns at place 0.80, so from 0; 1 turn at place 2.002, so up to 3.
  keep = np.array([1, 2 / 3, 1 / 3, 0])
  near(
    RopeScaling("yarn", 8.0, 63, 1.0, 4.0),
    keep * plain_ + (1 - keep) * plain_ / 8,
  )


def test_a_part_of_the_head_turns_and_grows():
  x = np.arange(1.0, 7.0, dtype=np.float32).reshape(1, 1, 1, 6)
  found = rope.rotate(x, np.array([[2]]), np.array([0.5], np.float32), 3.0)
  cos, sin = 3 * np.cos(1.0), 3 * np.sin(1.0)
  wanted = [1 * cos - 2 * sin, 2 * cos + 1 * sin, 3, 4, 5, 6]
  np.testing.assert_allclose(found[0, 0, 0], wanted, rtol=1e-6)


@pytest.mark.parametrize("kind", ["rms", "rms_plus_one", "layer"])
def test_norms_spelled_out(kind):
  x = np.array([[[1.0, -2.0, 4.0]]], np.float32)
  scale = np.array([0.5, 2.0, -1.0], np.float32)
  bias = np.array([0.1, 0.2, 0.3], np.float32)
  mean = {"layer": 1.0}.get(kind, 0.0)
  size = np.sqrt(((x - mean) ** 2).mean() + 0.25)
  params = {"scale": scale}
  wanted = (x - mean) / size * (scale + (kind == "rms_plus_one"))
  if kind == "layer":
    params["bias"] = bias
    wanted = wanted + bias
  found = Norm(kind, 0.25).apply({"params": params}, x)
  np.testing.assert_allclose(found, wanted, rtol=1e-6)
