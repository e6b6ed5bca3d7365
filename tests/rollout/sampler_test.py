"""The sampler draws what a plain loop over whole sequences draws."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import jaxprs, plain_model
from tests import tiny_models as tiny
from xpo_jax.models.model import Model
from xpo_jax.rollout import sampler, steps, stops
from xpo_jax.rollout.sampler import Sampling

CONFIG = dataclasses.replace(tiny.TIED, layers=2)
MODEL, ON_TRUNK = Model(CONFIG), Model(CONFIG, trunk_blocks=1)
PROMPTS = ([5, 9, 2], [7], [1, 2, 3, 4, 30])
WIDTH, EOS = 6, 11
KEY = jax.random.key(2)
LETTERS = [bytes([v]) for v in range(CONFIG.vocab_size)]
NEVER = stops.stop_table(LETTERS, ["\x00" * 2])
HOW = Sampling(completions=3, max_new_tokens=7, eos_id=EOS, temperature=0.9)


def make_whole():
  """Flat enough that tokens vary, and EOS is likely."""
  made = tiny.params(CONFIG)
  made["final_norm"]["scale"] *= 0.4
  made["embed"]["embedding"][EOS] += 0.3 * made["final_norm"]["scale"]
  return made


whole = pytest.fixture(scope="module")(make_whole)


def padded(prompts, width=WIDTH, filler=50):
  tokens = np.full((len(prompts), width), filler, np.int32)
  for row, prompt in zip(tokens, prompts):
    row[: len(prompt)] = prompt
  return tokens, np.array([len(p) for p in prompts], np.int32)


def generate(
  whole,
  how,
  prompts=PROMPTS,
  rows=(0, 1, 2),
  model=MODEL,
  limits=None,
  table=NEVER,
  **pad,
):
  tokens, lengths = padded(prompts, **pad)
  weights, rows = tiny.weights(model, whole), jnp.asarray(rows)
  if limits is None:  # an array: one program for all tests
    limits = [[how.max_new_tokens] * how.completions] * len(prompts)
  found = sampler.generate(
    model, weights, tokens, lengths, KEY, how, rows, jnp.array(limits), table
  )
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


def distribution(logits, temperature, top_p, top_k):
  """Probabilities in float64, token by token."""
  p = np.exp((logits - logits.max()) / (temperature or 1.0))
  for v in sorted(range(len(p)), key=lambda v: (-p[v], v))[top_k or len(p) :]:
    p[v] = 0
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
    p = distribution(logits, how.temperature, how.top_p, how.top_k)
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
  "filtered": dict(temperature=0.7, top_p=0.8, top_k=12),
  "greedy": dict(temperature=0.0),
}


@pytest.fixture(
  scope="module",
  params=[
    "plain",
    "filtered",
    pytest.param("greedy", marks=pytest.mark.slow),
  ],
)
def drawn(request, whole):
  how = HOW.replace(**SETTINGS[request.param])
  model = ON_TRUNK if request.param == "filtered" else MODEL
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


def test_other_rows_have_other_noise(whole):
  found, shifted = generate(whole, HOW), generate(whole, HOW, rows=[1, 2, 3])
  assert (shifted.tokens != found.tokens).any()


@pytest.mark.slow
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


def test_a_completion_is_cut_at_its_own_limit(whole):
  free = generate(whole, HOW)
  limits = np.array([[1, 7, 3], [0, 2, 4], [5, 6, 7]])
  found = generate(whole, HOW, limits=limits)
  lengths = np.minimum(free.mask.sum(-1), limits)
  np.testing.assert_array_equal(found.mask.sum(-1), lengths)
  for b, k, n, tokens, logps in branches(found):
    assert tokens == free.tokens[b, k, :n].tolist()
    np.testing.assert_array_equal(logps[:n], free.sampler_logps[b, k, :n])
    assert found.ended[b, k] == (n > 0 and tokens[-1] == EOS)


def test_a_stop_string_ends_a_completion_and_is_kept(whole):
  """Two tokens that one of the branches draws in a row, after others."""
  free = generate(whole, HOW)
  b, k, n, drawn, _ = next(x for x in branches(free) if x[2] == 7)
  stop = bytes(drawn[3:5]).decode()
  found = generate(whole, HOW, table=stops.stop_table(LETTERS, [stop]))
  cut = 0
  for c, j, _, tokens, _ in branches(free):
    at = bytes(tokens).decode().find(stop)
    wanted = tokens if at < 0 else tokens[: at + 2]
    assert found.tokens[c, j, : len(wanted)].tolist() == wanted
    assert found.mask[c, j].sum() == len(wanted)
    assert found.ended[c, j] == (at >= 0 or free.ended[c, j])
    cut += at >= 0
  assert found.mask[b, k].sum() <= 5 and cut < 9


@pytest.mark.slow
def test_the_loop_stops_when_every_branch_has_ended(monkeypatch):
  seen = []
  run = steps.run

  def counted(*inputs):
    jax.debug.callback(lambda: seen.append(1))
    return run(*inputs)

  monkeypatch.setattr(steps, "run", counted)
  compiled = jax.jit(sampler.generate.__wrapped__, static_argnums=(0, 5))
  one = Model(dataclasses.replace(CONFIG, layers=1))
  weights = tiny.weights(one, tiny.params(one.config))
  tokens, lengths = padded(PROMPTS)
  how = HOW.replace(max_new_tokens=30, completions=1, temperature=9.0)
  key = jax.random.key(47)  # all three branches happen to end early
  found = compiled(one, weights, tokens, lengths, key, how)
  jax.effects_barrier()
  needed = int(np.asarray(found.mask).sum(-1).max())
  assert 1 < needed < 30 and np.asarray(found.ended).all()
  assert len(seen) == needed


def test_branches_do_not_copy_the_prompt():
  """No array of the program holds a prompt's keys once for every branch."""
  branches, width, new = 8, 64, 3
  how = HOW.replace(completions=branches, max_new_tokens=new)
  weights = tiny.weights(MODEL, tiny.params(CONFIG))
  tokens, lengths = padded(PROMPTS, width=width)
  run = lambda w: sampler.generate(MODEL, w, tokens, lengths, KEY, how)
  once = len(PROMPTS) * width * CONFIG.kv_heads * CONFIG.head_dim
  sizes = {
    math.prod(v.aval.shape[-5:])
    for equation, _, _ in jaxprs.trace(run, weights)
    for v in equation.outvars
    if {CONFIG.head_dim, width} <= set(v.aval.shape)  # keys end in width
  }
  assert once in sizes  # the cache of a layer
  # The queries and keys of the prefill are as large as 2 layers' caches.
  assert max(sizes) <= CONFIG.layers * once


@pytest.mark.slow
def test_padding_past_a_table_of_positions_is_harmless():
  """A prompt padded to more places than the model has positions."""
  config = dataclasses.replace(
    CONFIG, layers=1, learned_positions=True, rotary_dim=0, max_length=12
  )
  model, whole = Model(config), tiny.params(config)
  short = generate(whole, HOW, model=model)
  long = generate(whole, HOW, model=model, width=16)
  assert np.isfinite(long.sampler_logps).all()
  np.testing.assert_array_equal(short.tokens, long.tokens)
