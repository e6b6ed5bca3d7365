"""The sampler draws what a plain loop over whole sequences draws."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import plain_model
from tests import tiny_models as tiny
from xpo_jax.models.model import Model
from xpo_jax.rollout import sampler
from xpo_jax.rollout.sampler import Sampling

CONFIG = dataclasses.replace(tiny.TIED, layers=2)
MODEL, ON_TRUNK = Model(CONFIG), Model(CONFIG, trunk_blocks=1)
PROMPTS = ([5, 9, 2], [7], [1, 2, 3, 4, 30])
WIDTH, EOS = 6, 11
KEY = jax.random.key(2)
HOW = Sampling(completions=3, max_new_tokens=7, eos_id=EOS)


@pytest.fixture(scope="module")
def whole():
  """Flat enough that tokens vary, and EOS is likely."""
  made = tiny.params(CONFIG)
  made["final_norm"]["scale"] *= 0.4
  made["embed"]["embedding"][EOS] += 0.3 * made["final_norm"]["scale"]
  return made


def padded(prompts, width=WIDTH, filler=50):
  tokens = np.full((len(prompts), width), filler, np.int32)
  for row, prompt in zip(tokens, prompts):
    row[: len(prompt)] = prompt
  return tokens, np.array([len(p) for p in prompts], np.int32)


def generate(whole, how, prompts=PROMPTS, rows=(0, 1, 2), model=MODEL, **pad):
  tokens, lengths = padded(prompts, **pad)
  weights, rows = tiny.weights(model, whole), jnp.asarray(rows)
  found = sampler.generate(model, weights, tokens, lengths, KEY, how, rows)
  return jax.tree.map(np.asarray, found)


@functools.cache
def uniforms(rows, branches, steps):
  """The noise by its definition: key, then row, branch and step folded in."""
  fold = jax.random.fold_in
  return {
    (b, k, s): float(jax.random.uniform(fold(fold(fold(KEY, b), k), s)))
    for b in range(rows)
    for k in range(branches)
    for s in range(steps)
  }


def distribution(logits, temperature, top_p):
  """Probabilities in float64, token by token."""
  p = np.exp((logits - logits.max()) / (temperature or 1.0))
  p /= p.sum()
  if top_p < 1:
    kept, mass = np.zeros_like(p), 0.0
    for v in sorted(range(len(p)), key=lambda v: (-p[v], v)):
      if mass >= top_p:
        break
      kept[v] = p[v]
      mass += p[v]
    p = kept / kept.sum()
  return p


def naive(whole, prompt, noise, how):
  """(tokens, their log-probs) of one branch, a whole forward pass a token."""
  tokens, logps = [], []
  for u in noise[: how.max_new_tokens]:
    ids = np.array([*prompt, *tokens])
    logits = plain_model.logits(CONFIG, whole, ids)[-1].astype(float)
    p = distribution(logits, how.temperature, how.top_p)
    if how.temperature == 0:
      token = int(np.argmax(logits))
    else:
      token = int(np.flatnonzero(np.cumsum(p) > u * p.sum())[0])
    tokens.append(token)
    logps.append(np.log(p[token]))
    if token == how.eos_id:
      break
  return tokens, logps


SETTINGS = {
  "plain": {},
  "nucleus": dict(temperature=0.7, top_p=0.8),
  "greedy": dict(temperature=0.0),
}


@pytest.fixture(scope="module", params=SETTINGS.values(), ids=SETTINGS)
def drawn(request, whole):
  how = HOW.replace(**request.param)
  model = ON_TRUNK if how.temperature == 0 else MODEL
  return how, generate(whole, how, model=model)


def branches(found):
  for b, k in np.ndindex(found.tokens.shape[:2]):
    n = int(found.mask[b, k].sum())
    yield b, k, n, found.tokens[b, k, :n].tolist(), found.sampler_logps[b, k]


def test_tokens_and_logps_are_those_of_a_naive_loop(drawn, whole):
  how, found = drawn
  noise = uniforms(len(PROMPTS), how.completions, how.max_new_tokens)
  for b, k, n, tokens, logps in branches(found):
    own = [noise[b, k, s] for s in range(how.max_new_tokens)]
    wanted, wanted_logps = naive(whole, PROMPTS[b], own, how)
    assert tokens == wanted
    np.testing.assert_allclose(logps[:n], wanted_logps, atol=1e-4)


def test_eos_ends_a_branch_and_is_emitted_once(drawn):
  how, found = drawn
  for b, k, n, tokens, logps in branches(found):
    assert found.mask[b, k].tolist() == [s < n for s in range(7)]
    assert EOS not in tokens[:-1]
    assert found.ended[b, k] == (tokens[-1] == EOS)
    assert found.ended[b, k] or n == how.max_new_tokens
    assert (found.tokens[b, k, n:] == EOS).all()
    assert (logps[n:] == 0).all()


def test_these_draws_are_varied_and_some_end_early(whole):
  found = generate(whole, HOW)
  lengths = found.mask.sum(-1)
  assert len(np.unique(lengths)) >= 3
  assert found.ended.any() and not found.ended.all()
  texts = {tuple(tokens) for *_, tokens, _ in branches(found)}
  assert len(texts) == 9


def test_noise_depends_on_key_row_branch_and_step_only(whole):
  found = generate(whole, HOW)
  order = [2, 0]
  other = generate(
    whole,
    HOW.replace(completions=2),
    [PROMPTS[b] for b in order],
    rows=order,
    width=9,
    filler=3,
  )
  np.testing.assert_array_equal(other.tokens, found.tokens[order][:, :2])
  np.testing.assert_array_equal(other.mask, found.mask[order][:, :2])
  np.testing.assert_allclose(
    other.sampler_logps, found.sampler_logps[order][:, :2], atol=1e-5
  )
  shifted = generate(whole, HOW, rows=[1, 2, 3])
  assert (shifted.tokens != found.tokens).any()


def test_the_loop_stops_when_every_branch_has_ended(whole, monkeypatch):
  steps = []
  decode = sampler._decode

  def counted(*inputs):
    jax.debug.callback(lambda: steps.append(1))
    return decode(*inputs)

  monkeypatch.setattr(sampler, "_decode", counted)
  run = jax.jit(sampler.generate.__wrapped__, static_argnums=(0, 5))
  one = Model(dataclasses.replace(CONFIG, layers=1))
  weights = tiny.weights(one, tiny.params(one.config))
  tokens, lengths = padded(PROMPTS)
  how = HOW.replace(max_new_tokens=30, completions=1, temperature=9.0)
  key = jax.random.key(47)  # all three branches happen to end early
  found = run(one, weights, tokens, lengths, key, how)
  jax.effects_barrier()
  needed = int(np.asarray(found.mask).sum(-1).max())
  assert 1 < needed < 30 and np.asarray(found.ended).all()
  assert len(steps) == needed


# choose


choose = jax.jit(sampler.choose, static_argnums=(2, 3))


def choose_many(p, uniform, temperature=1.0, top_p=1.0):
  """Tokens for every uniform, from one distribution."""
  with np.errstate(divide="ignore"):
    logits = np.log(np.asarray(p, np.float32))
  many = np.broadcast_to(logits, (len(uniform), len(logits)))
  return jax.tree.map(np.asarray, choose(many, uniform, temperature, top_p))


def random_distribution(size, seed=0):
  """Some of the probabilities are 0, whole buckets of them if size allows."""
  noise = np.random.default_rng(seed)
  p = noise.exponential(size=size) ** 2
  p[noise.random(size) < 0.2] = 0
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
  noise = np.random.default_rng(0)
  p = noise.exponential(size=(4000, 512)) ** 2
  # What a wrong fallback would draw, and what lies behind the last token.
  p[:, [0, 256, 510, 511]] = 0
  p /= p.sum(1, keepdims=True)
  with np.errstate(divide="ignore"):
    logits = np.log(p.astype("f"))
  tokens, _ = choose(logits, np.full(4000, 1 - 2**-24, "f"), 1.0, 1.0)
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
    [0.1, 0.4, 0.1, 0.4], np.array([0.0, 0.9], "f"), 0.0, 0.5
  )
  assert tokens.tolist() == [1, 1]
  np.testing.assert_allclose(logps, np.log(0.4), rtol=1e-5)


@pytest.mark.parametrize(
  "top_p, kept",
  [
    (0.3, [1]),  # the first token already crosses
    (0.45, [1, 3]),  # 0.4 + 0.3 crosses 0.45
    (0.75, [1, 2, 3]),  # 0.4 + 0.3 + 0.2, the tie at 0.1 not needed
    (0.95, [0, 1, 2, 3]),  # half of the tie: the lower id
    (1.0, [0, 1, 2, 3, 4]),
  ],
)
def test_top_p_keeps_the_token_that_crosses(top_p, kept):
  p = np.array([0.05, 0.4, 0.2, 0.3, 0.05])
  uniform = ((np.arange(500) + 0.5) / 500).astype("f")
  tokens, logps = choose_many(p, uniform, top_p=top_p)
  assert sorted(set(tokens.tolist())) == kept
  renormalised = p[tokens] / p[kept].sum()
  np.testing.assert_allclose(logps, np.log(renormalised), rtol=1e-4, atol=1e-5)
