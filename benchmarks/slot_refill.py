"""Slots that are refilled against batches that wait for their longest member.

    python benchmarks/slot_refill.py

A tiny random model draws completions whose lengths follow three laws, on 64
slots, 8 to a prompt: once by `refill.generate`, once in batches of 64 that end
early. The table gives the share of slot-steps that drew a token, and what that
means in time on this machine. It fails unless both draw the same tokens.
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
  width=32,
  layers=1,
  heads=2,
  kv_heads=2,
  head_dim=16,
  mlp_width=64,
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
  """[useful share, of early exit, seconds, of early exit]."""
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

  def refilled():
    layout = Layout(slots=SLOTS)
    found, steps = refill.generate(
      model, weights, tokens, full, key, how, layout, rows, limits
    )
    return np.asarray(found.tokens), int(steps)

  def batches():
    found, steps = [], 0
    for at in range(0, prompts, each):
      part = slice(at, at + each)
      some = sampler.generate(
        model,
        weights,
        tokens[part],
        full[part],
        key,
        how,
        rows[part],
        limits[part],
      )
      found.append(np.asarray(some.tokens))
      steps += int(limits[part].max())
    return np.concatenate(found), steps

  out, drawn = {}, {}
  for contender in (refilled, batches):
    contender()  # compiles
    start = time.perf_counter()
    drawn[contender], steps = contender()
    seconds = time.perf_counter() - start
    out[contender] = (limits.sum() / (steps * SLOTS), seconds)
  if not np.array_equal(drawn[refilled], drawn[batches]):
    raise SystemExit(f"{name}: the tokens differ")
  return [*out[refilled], *out[batches]]


def main() -> None:
  """Prints the table."""
  print(f"{SLOTS} slots, {K} completions a prompt")
  print(
    f"{'lengths':10} {'refill':>7} {'early exit':>10} {'fewer steps':>12}"
    f" {'faster here':>12}   goal {GOAL}"
  )
  for law in LAWS:
    useful, seconds, other, other_seconds = run(law)
    verdict = "ok" if useful >= GOAL else "MISSED"
    print(
      f"{law[0]:10} {useful:7.2f} {other:10.2f} {useful / other:11.1f}x"
      f" {other_seconds / seconds:11.1f}x   {verdict}",
      flush=True,
    )


if __name__ == "__main__":
  main()
