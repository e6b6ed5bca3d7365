"""What the sampler noted against what the trainer computes for the same tokens.

The loss's ratio divides by the sampler's log-probs. In float32 they are the
trainer's to 1e-5 of their size. In bfloat16 they are not, and less so where a
model is unsure: on 428 tokens of SmolLM2-135M at temperature 1 (-4.2 nats in
the mean) mean exp |difference| is 1.04 and the largest difference 0.3 nats,
while both passes are as far from float32 and neither is biased; completions
one position late make it 1.13, eight 1.6, an unseen prompt token 3. So
`trainer_logps` are the old log-probs by default, and `LIMITS` depend on the
element type. Truncated importance weights correct for a gap that stays.
"""

import functools

import jax
import jax.numpy as jnp

from xpo_jax import ops
from xpo_jax.errors import numeric_error, usage_error
from xpo_jax.models import model as lm
from xpo_jax.models.model import Model, Weights
from xpo_jax.models.transformer import Places
from xpo_jax.rollout.steps import Sampling
from xpo_jax.types import Array, Samples

# Of mean exp |difference in nats|: (a warning above it, the end above it).
LIMITS = {"float32": (1.02, 1.05), "bfloat16": (1.1, 1.25)}


@functools.partial(jax.jit, static_argnums=(0, 5))
def trainer_logps(
  model: Model,
  weights: Weights,
  prompts: Array,
  lengths: Array,
  samples: Samples,
  temperature: float = 1.0,
) -> Array:
  """Log-probs [B, K, S] of samples by the trainer's pass; 0 where masked.

  Args:
    model: sizes.
    weights: of the policy that drew, or of a reference.
    prompts: int32 [B, P], padded on the right.
    lengths: int32 [B].
    samples: [B, K, S] of these prompts.
    temperature: that of the sampler; 1 if it was greedy.
  """
  count, width = prompts.shape
  branches, new = samples.tokens.shape[1:]
  size = branches * new
  spread = lambda x: jnp.broadcast_to(x[None], (count, len(x)))
  at, step = jnp.arange(width), jnp.tile(jnp.arange(new), branches)
  branch = jnp.repeat(jnp.arange(branches), new)
  own = width + jnp.arange(size) - 1  # the place before each sampled token
  join = lambda a, b: jnp.concatenate([a, b], axis=1).astype(jnp.int32)
  places = Places(
    positions=join(spread(at), lengths[:, None] + step[None]),
    group=join(at[None] < lengths[:, None], samples.mask.reshape(count, size)),
    branch=join(0 * spread(at), spread(branch + 1)),
  )
  target = samples.tokens.reshape(count, size)
  states = lm.hidden(model, weights, join(prompts, target), places)
  before = jnp.where(step[None] == 0, lengths[:, None] - 1, own[None])
  found = lm.logps(
    model, weights, states, before, target, temperature=temperature
  )
  return jnp.where(samples.mask, found.reshape(samples.mask.shape), 0.0)


def compare(
  trainer_logps: Array, sampler_logps: Array, mask: Array
) -> dict[str, Array]:
  """How far apart the two are, over the tokens of mask [B, K, S].

  Returns:
    "sampler/gap", the largest difference in nats, and "sampler/ratio", the
    mean of exp |difference|.
  """
  gap = jnp.where(mask, jnp.abs(trainer_logps - sampler_logps), 0.0)
  ratio = ops.masked_mean(ops.clipped_exp(gap), mask)
  return {"sampler/gap": jnp.max(gap), "sampler/ratio": ratio}


def check(found: dict[str, Array], dtype: str) -> str:
  """A warning if the ratio of `compare` is above the first limit, else "".

  Args:
    found: of `compare`.
    dtype: of the model that drew, a key of `LIMITS`.

  Raises:
    XpoError: (70) it is above the second, or no number.
  """
  ratio, (alarm, stop) = float(found["sampler/ratio"]), LIMITS[dtype]
  if not ratio <= stop:
    raise numeric_error(
      f"sampler/ratio={ratio:.4f} exceeds {stop}: the sampler and the trainer "
      "disagree about what was drawn; use model.dtype=float32, or look for "
      "weights that were not handed on"
    )
  if ratio > alarm:
    return f"sampler/ratio={ratio:.4f} exceeds {alarm}; model.dtype=float32?"
  return ""


def importance_weights(
  trainer_logps: Array, sampler_logps: Array, mask: Array, cap: float = 2.0
) -> Array:
  """min(exp(trainer - sampler), cap) of every token, 0 where masked; frozen.

  Multiplies a token's loss when the old log-probs are the trainer's but the
  tokens are the sampler's.
  """
  gap = ops.frozen(trainer_logps) - ops.frozen(sampler_logps)
  weights = jnp.minimum(ops.clipped_exp(gap), cap)
  return jnp.where(mask, weights, 0.0)


def check_ratio(how: Sampling) -> None:
  """Refuses to sample so that an importance ratio has no meaning.

  Raises:
    XpoError: greedy, top-k or top-p: the policy's own log-probs are not those
      of the distribution drawn from.
  """
  if how.temperature == 0:
    raise usage_error(
      "temperature=0 draws no samples of the policy, so an importance ratio "
      "has no meaning; set temperature=1"
    )
  for name, value, off in (("top_k", how.top_k, 0), ("top_p", how.top_p, 1.0)):
    if value != off:
      raise usage_error(
        f"{name}={value} cuts the policy's distribution, so an importance "
        f"ratio has no meaning; set {name}={off}"
      )
