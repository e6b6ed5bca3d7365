"""RSO's accept loop: the XLA kernel against numpy, prompt by prompt.

    python benchmarks/rso.py

Both are given the same uniforms and must accept the same candidates in the same
order; how long the kernel takes when it draws them itself is printed too. Times
are the shortest of the repeats. Prints one line of JSON; exit code 1 if the
ratio is below --least.
"""

import argparse
import functools
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from xpo_jax.rollout import select

BETA = 0.5


def accept(rewards, uniforms, count, beta):
  """Algorithm 1 of arXiv 2309.06657 for one prompt; pass by pass in numpy.

  Returns the accepted candidates in their order.
  """
  remaining, accepted, number = list(range(len(rewards))), [], 0
  while len(accepted) < count:
    highest = max(rewards[c] for c in remaining)
    for c in remaining:
      bound = np.exp((rewards[c] - highest) / beta)
      if uniforms[number, c] < bound:
        accepted.append(c)
        if len(accepted) == count:
          return accepted
    remaining = [c for c in remaining if c not in accepted]
    number += 1
  return accepted


def draw_uniforms(key, prompts, passes, candidates):
  """The uniforms of `select.sample_rejection`, all passes, [B, P, K]."""

  def one(row, p):
    own = jax.random.fold_in(jax.random.fold_in(key, row), p)
    return jax.random.uniform(own, (candidates,))

  over_passes = jax.vmap(one, in_axes=(None, 0))
  over_rows = jax.vmap(over_passes, in_axes=(0, None))
  return jax.jit(over_rows)(jnp.arange(prompts), jnp.arange(passes))


def best_seconds(run, repeats) -> float:
  """The shortest of so many runs, after one that compiles."""
  jax.block_until_ready(run())
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(run())
    seconds.append(time.perf_counter() - start)
  return min(seconds)


def main() -> int:
  """Runs both, compares every index and prints the ratio."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--prompts", type=int, default=4096)
  parser.add_argument("--candidates", type=int, default=64)
  parser.add_argument("--count", type=int, default=8)
  parser.add_argument("--repeats", type=int, default=9)
  parser.add_argument("--least", type=float, default=30.0)
  args = parser.parse_args()
  shape = (args.prompts, args.candidates)
  rewards = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  valid, key = jnp.ones(shape, bool), jax.random.key(0)
  own = jax.jit(
    functools.partial(select.sample_rejection, count=args.count, beta=BETA)
  )
  given = jax.jit(
    functools.partial(select.rejection_sample, count=args.count, beta=BETA)
  )
  uniforms = draw_uniforms(key, args.prompts, args.count, args.candidates)
  found = given(rewards, valid, uniforms)
  ours = best_seconds(lambda: given(rewards, valid, uniforms), args.repeats)
  drawing = best_seconds(lambda: own(key, rewards, valid), args.repeats)
  uniforms = np.asarray(uniforms)
  beta = np.float32(BETA)
  theirs = np.inf
  for _ in range(2):
    start = time.perf_counter()
    wanted = [
      accept(r, u, args.count, beta)
      for r, u in zip(rewards, uniforms, strict=True)
    ]
    theirs = min(theirs, time.perf_counter() - start)
  np.testing.assert_array_equal(np.asarray(found.index), wanted)
  np.testing.assert_array_equal(np.asarray(own(key, rewards, valid)[0]), wanted)
  ratio = theirs / ours
  report = {
    "benchmark": "rso",
    "prompts": args.prompts,
    "candidates": args.candidates,
    "count": args.count,
    "passes": [int(found.passes.min()), int(found.passes.max())],
    "kernel_seconds": round(ours, 4),
    "with_drawing_seconds": round(drawing, 4),
    "numpy_seconds": round(theirs, 4),
    "ratio": round(ratio, 1),
    "least": args.least,
    "equal": True,
  }
  print(json.dumps(report))
  return 0 if ratio >= args.least else 1


if __name__ == "__main__":
  sys.exit(main())
