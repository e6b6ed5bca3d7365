"""Whole-vocabulary statistics against numpy, and their memory."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xpo_jax.models import heads, vocabulary

R, M, D, V = 2, 7, 5, 11


def make(seed=0):
  noise = np.random.default_rng(seed)
  draw = lambda *shape: noise.normal(size=shape).astype(np.float32)
  targets = noise.integers(0, V, (R, M)).astype(np.int32)
  return draw(R, M, D), draw(D, V), targets, (draw(R, M, D), draw(D, V))


def log_softmax(h, w):
  z = h.astype(np.float64) @ w.astype(np.float64)
  return z - np.log(np.exp(z).sum(-1, keepdims=True))


@pytest.mark.parametrize("chunk", [1, 6, 1000])
def test_values_against_numpy(chunk):
  h, w, t, (hr, wr) = make()
  found = vocabulary.statistics(
    h,
    w,
    t,
    vocabulary.STATISTICS,
    reference=(hr, wr),
    uniform=np.zeros((R, M), np.float32),
    alternatives=1,
    chunk_tokens=chunk,
  )
  p, q = log_softmax(h, w), log_softmax(hr, wr)
  m = np.log((np.exp(p) + np.exp(q)) / 2)
  kl = lambda a, b: (np.exp(a) * (a - b)).sum(-1)
  masked = p.copy()
  np.put_along_axis(masked, t[..., None], -np.inf, -1)
  expected = {
    "logps": np.take_along_axis(p, t[..., None], -1)[..., 0],
    "entropy": -(np.exp(p) * p).sum(-1),
    "log_collision": np.log((np.exp(p) ** 2).sum(-1)),
    "token_kl:forward": kl(q, p),
    "token_kl:reverse": kl(p, q),
    "token_kl:js": (kl(p, m) + kl(q, m)) / 2,
    "contrast_logps": masked.max(-1),
  }
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, atol=2e-6, err_msg=name)


def test_only_what_is_wanted():
  h, w, t, _ = make()
  found = vocabulary.statistics(h, w, t, frozenset({"entropy"}))
  assert set(found) == {"logps", "entropy"}
  np.testing.assert_allclose(
    found["logps"], heads.token_logps(h, w, t), atol=1e-6
  )


@pytest.mark.parametrize("name", sorted(vocabulary.STATISTICS))
def test_gradients_equal_unchunked(name):
  h, w, t, reference = make(1)
  u = np.full((R, M), 0.4, np.float32)

  def total(h, w, chunk):
    found = vocabulary.statistics(
      h,
      w,
      t,
      frozenset({name}),
      reference=reference,
      uniform=u,
      alternatives=3,
      chunk_tokens=chunk,
    )
    return jnp.sum(jnp.sin(found[name]))

  whole = jax.grad(total, argnums=(0, 1))(h, w, 10_000)
  parts = jax.grad(total, argnums=(0, 1))(h, w, 4)
  for a, b in zip(whole, parts, strict=True):
    assert float(jnp.abs(a).max()) > 1e-3
    np.testing.assert_allclose(a, b, atol=2e-6)


def test_reference_gets_no_gradient():
  h, w, t, (hr, wr) = make(2)
  total = lambda hr, wr: jnp.sum(
    vocabulary.statistics(
      h, w, t, frozenset({"token_kl:js"}), reference=(hr, wr)
    )["token_kl:js"]
  )
  for g in jax.grad(total, argnums=(0, 1))(hr, wr):
    np.testing.assert_array_equal(g, 0)


def test_contrast_draws_in_proportion_among_the_k_others():
  # The specification's case: logits [2, 1, 0, -1], data token 0, k = 2.
  logp = jnp.broadcast_to(
    jax.nn.log_softmax(jnp.array([2.0, 1.0, 0.0, -1.0])), (1000, 4)
  )
  u = (jnp.arange(1000) + 0.5) / 1000
  ids = vocabulary.contrast(logp, jnp.zeros(1000, jnp.int32), u, 2)
  shares = [float(jnp.mean(ids == i)) for i in range(4)]
  np.testing.assert_allclose(shares, [0, 0.731, 0.269, 0], atol=1e-3)
  # A target outside the top k leaves k true alternatives.
  ids = vocabulary.contrast(logp, jnp.full(1000, 3), u, 2)
  assert set(np.asarray(ids).tolist()) == {0, 1}


def _largest(f, *args):
  text = jax.jit(f).lower(*args).compile().as_text()
  shapes = re.findall(r"f32\[([\d,]+)\]", text)
  return max(np.prod([int(n) for n in s.split(",")]) for s in shapes)


def test_no_targets_times_vocabulary_buffer():
  h, w, t = np.ones((2, 64, 4)), np.ones((4, 97)), np.zeros((2, 64), np.int32)
  h, w = h.astype(np.float32), w.astype(np.float32)
  wants = frozenset({"entropy", "log_collision"})

  def total(h, w, chunk):
    found = vocabulary.statistics(h, w, t, wants, chunk_tokens=chunk)
    return sum(jnp.sum(x) for x in found.values())

  grad = lambda chunk: jax.grad(lambda h, w: total(h, w, chunk), (0, 1))
  assert _largest(grad(16), h, w) < 2 * 64 * 97
  assert _largest(grad(128), h, w) >= 2 * 64 * 97  # so the test can fail
