"""Sampling with a shared prompt against a plain cache and no cache at all.

    python benchmarks/sampler_cpu.py

Three samplers draw 8 completions of 2 prompts (128 tokens, 48 new ones) from a
random model of 6.8 million weights, with the same noise, one after the other
and again; the table's ratios are of medians. It fails unless all tokens agree.
"""

import functools
import statistics
import time

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from xpo_jax import pretrained
from xpo_jax.models import decode, sequences
from xpo_jax.models import model as lm
from xpo_jax.models.model import Model, Weights
from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.rollout import filters, noise, sampler, steps

CONFIG = TransformerConfig(
  vocab_size=8192,
  width=256,
  layers=6,
  heads=8,
  kv_heads=4,
  head_dim=32,
  mlp_width=768,
)
PROMPTS, K, P, S = 2, 8, 128, 48
HOW = steps.Sampling(completions=K, max_new_tokens=S, eos_id=7)
TURNS = 5
GOALS = {"plain cache": 1.5, "naive": 40.0}


def shared(model, weights, prompts, lengths, key):
  """What `xpo_jax` does."""
  return sampler.generate(model, weights, prompts, lengths, key, HOW).tokens


@functools.partial(jax.jit, static_argnums=0)
def plain_cache(model, weights, prompts, lengths, key):
  """Every completion prefills, stores and reads its own copy of the prompt."""
  one = HOW.replace(completions=1)
  copies = lambda x: jnp.repeat(x, K, axis=0)
  prompts, lengths = copies(prompts), copies(lengths)
  slots = sampler.start(prompts, lengths, one, None)
  uniforms = sampler.draws(key, PROMPTS, HOW, None).reshape(-1, 1, S)
  policy = steps.make_policy(model, weights, uniforms, None)
  keys = decode.prefill(model, policy.decoders[0], prompts, lengths)
  caches = decode.empty_caches(model, PROMPTS * K, 0, P, 1, S)
  caches = [
    c.replace(shared_key=k[:, None], shared_value=v[:, None])
    for c, (k, v) in zip(caches, keys)
  ]
  state = steps.State(
    tick=jnp.zeros((), jnp.int32),
    slots=slots,
    caches=(caches,),
    found=steps.nothing_found(PROMPTS * K, 1, one),
  )
  found = lax.while_loop(
    lambda s: ~jnp.all(s.slots.done),
    lambda s: steps.run(model, policy, one, lengths[:, None] - 1, s),
    state,
  ).found
  return found.tokens.reshape(PROMPTS, K, S)


@functools.partial(jax.jit, static_argnums=0)
def naive(model, weights, prompts, lengths, key):
  """A whole forward pass over prompt and completion for every token."""
  rows, branch = jnp.divmod(jnp.arange(PROMPTS * K), K)
  uniforms = noise.uniforms(key, rows, branch, S)
  lengths = lengths[rows]
  tokens = jnp.pad(prompts[rows], ((0, 0), (0, S)))
  at = jnp.arange(P + S)[None]

  def draw(s):
    step, tokens, done = s
    states = lm.hidden(model, weights, tokens, sequences.places(tokens))
    last = (lengths + step - 1)[:, None, None]
    states = jnp.take_along_axis(states, last, axis=1)
    logits = lm.logits(model, weights, states)[:, 0]
    uniform = uniforms[:, step]
    token, _ = filters.choose(logits, uniform, HOW.temperature, HOW.top_p)
    token = jnp.where(done, HOW.eos_id, token)
    here = at == (lengths + step)[:, None]
    tokens = jnp.where(here, token[:, None], tokens)
    return step + 1, tokens, done | (token == HOW.eos_id)

  _, tokens, _ = lax.while_loop(
    lambda s: (s[0] < S) & ~jnp.all(s[2]),
    draw,
    (jnp.zeros((), jnp.int32), tokens, jnp.zeros(rows.shape, bool)),
  )
  new = lengths[:, None] + jnp.arange(S)[None]
  tokens = jnp.take_along_axis(tokens, new, axis=1).reshape(PROMPTS, K, S)
  ended = jnp.cumsum(tokens == HOW.eos_id, axis=-1) > 0
  return jnp.where(ended, HOW.eos_id, tokens)


def main() -> None:
  """Prints the table."""
  model = Model(CONFIG)
  params = pretrained.random_params(model, 0)
  weights = Weights({}, jax.tree.map(jnp.asarray, params))
  draws = np.random.default_rng(0)
  prompts = jnp.asarray(draws.integers(8, CONFIG.vocab_size, (PROMPTS, P)))
  lengths = jnp.asarray([P, P - 11])
  inputs = (model, weights, prompts, lengths, jax.random.key(1))
  contenders = {"shared": shared, "plain cache": plain_cache, "naive": naive}
  tokens = {n: np.asarray(f(*inputs)) for n, f in contenders.items()}
  times: dict[str, list[float]] = {n: [] for n in contenders}
  for turn in range(TURNS):
    for name, run in contenders.items():
      if name == "naive" and turn >= 2:
        continue
      start = time.perf_counter()
      jax.block_until_ready(run(*inputs))
      times[name].append(time.perf_counter() - start)
  size = sum(x.size for x in jax.tree.leaves(params)) / 1e6
  print(f"{size:.1f} M weights, {PROMPTS} x {K} completions, {P} + {S} tokens")
  print(f"{'sampler':12} {'seconds':>8} {'slower than shared':>20} {'goal':>6}")
  best = statistics.median(times["shared"])
  for name, seen in times.items():
    took = statistics.median(seen)
    goal = f"{GOALS[name]:.1f}" if name in GOALS else ""
    print(f"{name:12} {took:8.3f} {took / best:19.1f}x {goal:>6}")
  for name, found in tokens.items():
    if not np.array_equal(found, tokens["shared"]):
      raise SystemExit(f"{name} drew other tokens")
  print("all tokens agree")


if __name__ == "__main__":
  main()
