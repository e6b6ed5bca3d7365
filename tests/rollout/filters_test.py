"""Filters and draws against spelled-out probabilities."""

import jax
import numpy as np
import pytest

from xpo_jax.rollout import filters, noise

choose = jax.jit(filters.choose, static_argnums=(2, 3, 4))


def choose_many(p, uniform, temperature=1.0):
  """Tokens for every uniform, from one distribution."""
  with np.errstate(divide="ignore"):
    logits = np.log(np.asarray(p, np.float32))
  many = np.broadcast_to(logits, (len(uniform), len(logits)))
  found = choose(many, uniform, temperature, 1.0, 0)
  return jax.tree.map(np.asarray, found)


def random_distribution(size, seed=0):
  """Some of the probabilities are 0, whole buckets of them if size allows."""
  draws = np.random.default_rng(seed)
  p = draws.exponential(size=size) ** 2
  p[draws.random(size) < 0.2] = 0
  p[256:512] = 0
  return p / p.sum()


# One bucket, exactly two, and some with a ragged end.
@pytest.mark.parametrize("size", [7, 512, 700])
def test_inverse_cdf_gives_every_token_its_share_of_the_line(size):
  p, count = random_distribution(size), 20_000
  uniform = ((np.arange(count) + 0.5) / count).astype("f")
  tokens, logps = choose_many(p, uniform)
  times = np.bincount(tokens, minlength=size)
  assert np.abs(times - count * p).max() < 3
  assert (times[p == 0] == 0).all()
  np.testing.assert_allclose(logps, np.log(p[tokens]), rtol=1e-4, atol=1e-4)
  # In the order of the ids, as an inverse CDF is.
  assert (np.diff(tokens) >= 0).all()


def test_masses_in_any_unit_draw_the_same_tokens():
  p = random_distribution(700).astype("f")
  uniform = ((np.arange(999) + 0.5) / 999).astype("f")
  draw = lambda scale: noise.inverse_cdf(np.tile(p * scale, (999, 1)), uniform)
  tokens = np.asarray(draw(np.float32(1)))
  assert len(set(tokens.tolist())) > 100
  for scale in (2.0**-90, 2.0**7, 2.0**90):  # exact in float32
    assert (np.asarray(draw(np.float32(scale))) == tokens).all()


def test_frequencies_under_jax_noise_pass_chi_squared():
  p, count = random_distribution(40, seed=1), 20_000
  uniform = jax.random.uniform(jax.random.key(7), (count,))
  tokens, _ = choose_many(p, uniform)
  times = np.bincount(tokens, minlength=40)
  live = p * count > 5
  chi = ((times - count * p)[live] ** 2 / (count * p[live])).sum()
  degrees = live.sum() - 1
  # Mean k, variance 2 k: four standard deviations.
  assert abs(chi - degrees) < 4 * np.sqrt(2 * degrees)


def test_edges_of_the_line_never_draw_a_token_of_probability_zero():
  ends = np.array([0.0, 1 - 2**-24, np.nextafter(np.float32(1), 0)], "f")
  for p, first, last in (
    ([0] + [0.5] * 2 + [0] * 509, 1, 2),
    ([0] * 300 + [0.25, 0.75] + [0] * 210, 300, 301),
    ([1.0] + [0] * 511, 0, 0),
    ([0] * 511 + [1.0], 511, 511),
  ):
    tokens, _ = choose_many(p, ends)
    assert tokens.tolist() == [first, last, last]
  flat, _ = choose_many(np.full(49_152, 1 / 49_152), ends)
  assert flat[0] == 0 and flat[1] >= 49_150


def test_rounding_at_the_end_of_the_line_falls_on_the_last_tokens():
  draws = np.random.default_rng(0)
  p = draws.exponential(size=(4000, 512)) ** 2
  # What a wrong fallback would draw, and what lies behind the last token.
  p[:, [0, 256, 510, 511]] = 0
  p /= p.sum(1, keepdims=True)
  with np.errstate(divide="ignore"):
    logits = np.log(p.astype("f"))
  tokens, _ = choose(logits, np.full(4000, 1 - 2**-24, "f"), 1.0, 1.0, 0)
  from_here = [row[token:].sum() for row, token in zip(p, tokens)]
  own = np.take_along_axis(p, np.asarray(tokens)[:, None], 1)
  assert (own > 0).all()
  assert np.max(from_here - own[:, 0]) < 1e-5


def test_temperature_divides_the_logits():
  p = np.array([0.5, 0.3, 0.2])
  sharp = p**2 / (p**2).sum()
  uniform = ((np.arange(1000) + 0.5) / 1000).astype("f")
  tokens, logps = choose_many(p, uniform, temperature=0.5)
  np.testing.assert_allclose(np.bincount(tokens) / 1000, sharp, atol=2e-3)
  np.testing.assert_allclose(logps, np.log(sharp[tokens]), rtol=1e-4)


def test_greedy_takes_the_lower_id_of_a_tie_and_ignores_the_noise():
  tokens, logps = choose_many(
    [0.1, 0.4, 0.1, 0.4], np.array([0.0, 0.9], "f"), 0.0
  )
  assert tokens.tolist() == [1, 1]
  np.testing.assert_allclose(logps, np.log(0.4), rtol=1e-5)


def assert_kept(cases, **settings):
  """What is drawn of each distribution, and by which renormalised shares."""
  every = [np.array(p, np.float32) for p, _ in cases]
  count = 500
  uniform = ((np.arange(count) + 0.5) / count).astype("f")
  logits = np.log(np.repeat(every, count, axis=0))
  tokens, logps = choose(
    logits,
    np.tile(uniform, len(cases)),
    1.0,
    settings.get("top_p", 1.0),
    settings.get("top_k", 0),
  )
  tokens = np.asarray(tokens).reshape(len(cases), count)
  logps = np.asarray(logps).reshape(len(cases), count)
  for (p, kept), drawn, found in zip(cases, tokens, logps):
    assert sorted(set(drawn.tolist())) == kept
    wanted = np.log(np.array(p)[drawn] / np.array(p)[kept].sum())
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_top_p_keeps_the_token_that_crosses():
  cases = [
    ([0.05, 0.75, 0.1, 0.05, 0.05], [1]),  # the first already crosses
    ([0.05, 0.45, 0.15, 0.3, 0.05], [1, 3]),  # 0.45 + 0.3 crosses 0.7
    ([0.2, 0.35, 0.2, 0.05, 0.2], [0, 1, 2]),  # of a tie the lower ids
    ([0.2, 0.2, 0.2, 0.2, 0.2], [0, 1, 2, 3]),
  ]
  assert_kept(cases, top_p=0.7)


def test_top_k_keeps_the_lower_ids_of_a_tie():
  cases = [
    ([0.05, 0.4, 0.2, 0.3, 0.05], [1, 2, 3]),
    ([0.1, 0.4, 0.1, 0.3, 0.1], [0, 1, 3]),
    ([0.2, 0.2, 0.2, 0.2, 0.2], [0, 1, 2]),
  ]
  assert_kept(cases, top_k=3)


def test_top_k_comes_before_top_p():
  """4/9 + 3/9 of what top-k leaves cross 0.75; 0.4 + 0.3 of all do not."""
  cases = [
    ([0.05, 0.4, 0.2, 0.3, 0.05], [1, 3]),
    ([0.2, 0.2, 0.2, 0.2, 0.2], [0, 1, 2]),
  ]
  assert_kept(cases, top_k=3, top_p=0.75)
