"""Slots that are refilled against batches that wait for their longest member.

    python benchmarks/slot_refill.py

A tiny random model draws completions whose lengths follow three laws, on 64
slots, 8 to a prompt: once by `refill.generate`, once in batches of 64 that end
early. The table gives the share of slot-steps that drew a token, and the ratio
of the CPU seconds. It fails unless both draw the same tokens.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from xpo_jax import pretrained
from xpo_jax.models.model import Model, Weights
from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.rollout import refill, sampler
from xpo_jax.rollout.refill import Layout

CONFIG = TransformerConfig(
  vocab_size=64,
  width=16,
  layers=1,
  heads=2,
  kv_heads=2,
  head_dim=8,
  mlp_width=32,
  max_length=4096,
)
SLOTS, K, P = 64, 8, 16
GOAL = 0.85
# Name, completions, mean and cap in tokens, sigma of the logarithm.
LAWS = (
  ("HH-like", 2048, 68, 256, 0.95),
  ("reasoning", 1024, 700, 2048, 1.0),
  ("narrow", 2048, 68, 256, 0.3),
)


def lengths_of(count, mean, cap, sigma) -> np.ndarray:
  """int32 [count / K, K] log-normal lengths, cut at the cap."""
  draws = np.random.default_rng(0)
  seen = draws.lognormal(np.log(mean) - sigma**2 / 2, sigma, count)
  # What the cap takes away is put back by scale, so that the mean holds.
  for _ in range(20):
    seen *= mean / np.minimum(seen, cap).mean()
  return np.clip(seen, 1, cap).astype(np.int32).reshape(-1, K)


def run(law) -> list[float]:
  """[useful share, CPU seconds] of refill, then of early exit."""
  name, count, mean, cap, sigma = law
  limits = lengths_of(count, mean, cap, sigma)
  model, prompts = Model(CONFIG), count // K
  weights = Weights({}, pretrained.random_params(model, 0))
  weights = jax.tree.map(jnp.asarray, weights)
  draws = np.random.default_rng(1)
  tokens = draws.integers(0, 64, (prompts, P)).astype(np.int32)
  full = np.full(prompts, P, np.int32)
  rows = np.arange(prompts, dtype=np.int32)
  # No EOS: the limits are the lengths.
  how = sampler.Sampling(completions=K, max_new_tokens=cap, eos_id=64)
  key, each = jax.random.key(0), SLOTS // K

  every = (model, weights, tokens, full, key, how)
  refilled = refill.generate.lower(
    *every, Layout(slots=SLOTS), rows, limits
  ).compile()
  part = lambda x, at: x[at : at + each]
  batch = sampler.generate.lower(
    model,
    weights,
    part(tokens, 0),
    part(full, 0),
    key,
    how,
    part(rows, 0),
    part(limits, 0),
  ).compile()

  def all_batches():
    for at in range(0, prompts, each):
      inputs = (part(x, at) for x in (tokens, full))
      more = (part(x, at) for x in (rows, limits))
      yield np.asarray(batch(weights, *inputs, key, *more).tokens)

  start = time.process_time()
  found, steps = refilled(weights, tokens, full, key, rows, limits)
  drawn = np.asarray(found.tokens)
  middle = time.process_time()
  other = np.concatenate(list(all_batches()))
  end = time.process_time()
  if not np.array_equal(drawn, other):
    raise SystemExit(f"{name}: the tokens differ")
  longest = limits.reshape(-1, each * K).max(axis=1).sum()
  share = lambda steps: limits.sum() / (int(steps) * SLOTS)
  return [share(steps), middle - start, share(longest), end - middle]


def main() -> None:
  """Prints the table."""
  print(f"{SLOTS} slots, {K} completions a prompt")
  print(
    f"{'lengths':10} {'refill':>7} {'early exit':>10} {'fewer steps':>12}"
    f" {'less CPU time':>14}   goal {GOAL}"
  )
  for law in LAWS:
    useful, seconds, other, other_seconds = run(law)
    verdict = "ok" if useful >= GOAL else "MISSED"
    print(
      f"{law[0]:10} {useful:7.2f} {other:10.2f} {useful / other:11.1f}x"
      f" {other_seconds / seconds:13.1f}x   {verdict}",
      flush=True,
    )


if __name__ == "__main__":
  main()
