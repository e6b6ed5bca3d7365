"""LossInputs for tests: random ones for any method, exact ones from sums.

Nothing here knows a method by name: K comes from `Method.completions`, the
feedback from `Method.feedback`, the rest from `Method.needs`.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xpo_jax.methods.registry import FROM_DATA, NEEDS, Method
from xpo_jax.types import Feedback, LossInputs

LONG_LIST = 4  # K of the larger case where the range is open
PAIR_KINDS = (Feedback.ORDER, Feedback.PROBABILITY, Feedback.MARGIN)
LISTS = (Feedback.DEMONSTRATION, Feedback.BINARY, Feedback.SCORE)


def make_inputs(
  method: Method,
  settings: Mapping[str, Any],
  *,
  prompts: int,
  completions: int | None = None,
  tokens: int,
  seed: int,
  dtype: Any,
  feedback_kind: Feedback | None = None,
) -> LossInputs:
  """Random inputs that hold what `method.needs(settings)` names, no more.

  The same seed gives the same numbers whatever the settings, so that outputs
  under two settings can be compared.

  Args:
    method: the method to feed.
    settings: its checked keywords.
    prompts: B.
    completions: K; the smallest that the method takes if None.
    tokens: T; completions are 1 to T tokens long.
    seed: of the numbers and of the PRNG key.
    dtype: of everything but feedback and weight, which are at least float32.
    feedback_kind: the method's first kind if None.
  """
  kind = feedback_kind or feedback_kinds(method)[0]
  k = completions or list_sizes(method, settings, kind)[0]
  rng = np.random.default_rng(seed)
  needs = method.needs(settings)
  present = _present(prompts, k, method, kind)
  lengths = rng.integers(1, tokens + 1, size=(prompts, k))
  mask = (np.arange(tokens) < lengths[..., None]) & present[..., None]
  ended = (rng.random((prompts, k)) < 0.8) & present
  feedback = _feedback(kind, prompts, k, needs, rng) * present
  numbers = _numbers(rng, prompts, k, tokens)
  wanted = {need.split(":")[0] for need in needs} & set(numbers)
  if not method.trains_reward:
    wanted.add("policy_logps")
  fields = {}
  for name in sorted(wanted):
    inside = mask if numbers[name].ndim == 3 else present
    fields[name] = jnp.asarray(np.where(inside, numbers[name], 0.0), dtype)
  wide = jnp.promote_types(dtype, jnp.float32)
  start = method.init_state
  return LossInputs(
    **{"policy_logps": None, **fields},
    completion_mask=jnp.asarray(mask),
    present=jnp.asarray(present),
    ended=jnp.asarray(ended),
    feedback=jnp.asarray(feedback, wide),
    weight=jnp.asarray(np.ones(prompts), wide),
    state=None if start is None else start(settings),
    noise=jax.random.key(seed) if "noise" in needs else None,
    feedback_kind=kind,
  )


def feedback_kinds(method: Method) -> list[Feedback]:
  """The method's kinds in the enum's order."""
  return [kind for kind in Feedback if kind in method.feedback]


def list_sizes(
  method: Method, settings: Mapping[str, Any], kind: Feedback
) -> list[int]:
  """A small K and, where the range allows, a larger one.

  A kind that speaks of pairs means K = 2 when the range is open above, unless
  it is the only kind (win rates of K samples).
  """
  if "mismatched_completion" in method.needs(settings):
    return [2]
  low, high = method.completions
  small = low
  if kind in PAIR_KINDS and low == 1 and high != 1:
    small = 2
  large = LONG_LIST if high is None else min(high, LONG_LIST)
  if high is None and kind in PAIR_KINDS and len(method.feedback) > 1:
    large = small
  return sorted({small, max(small, large)})


def cases(
  method: Method, settings: Mapping[str, Any]
) -> list[tuple[Feedback, int]]:
  """Every feedback kind with each of its K."""
  return [
    (kind, k)
    for kind in feedback_kinds(method)
    for k in list_sizes(method, settings, kind)
  ]


def _present(prompts, k, method, kind):
  """Prompt 1 of a list lacks one completion, if the range has room for that.

  A BINARY list ends with its rejected completion, so there the one before it
  is absent.
  """
  present = np.ones((prompts, k), bool)
  room = k >= 3 and k > method.completions[0]
  if room and (kind in LISTS or method.feedback == {kind}):
    present[1:2, k - (2 if kind is Feedback.BINARY else 1)] = False
  return present


def _feedback(kind, prompts, k, needs, rng):
  """[B, K] of what the kind means (types.Feedback)."""
  x = np.zeros((prompts, k))
  uniform = rng.uniform(0.2, 0.9, size=(prompts, k))
  if kind is Feedback.DEMONSTRATION:
    x[:] = 1.0
  elif kind is Feedback.SCORE:
    x[:] = uniform
  elif kind is Feedback.ORDER:
    x[:, 0] = 1.0
  elif kind is Feedback.MARGIN:
    x[:, 0] = uniform[:, 0]
  elif kind is Feedback.PROBABILITY:
    x[:] = uniform
    if k == 2:
      x[:, 1] = 1.0 - x[:, 0]
  elif k == 1 or "mismatched_completion" in needs:
    x[:, 0] = np.where(np.arange(prompts) % 2 == 0, 1.0, -1.0)
  else:
    x[:] = 1.0
    x[:, -1] = -1.0
  return x


def _numbers(rng, prompts, k, tokens):
  """Every float field of NEEDS, always drawn in the same order."""
  shape = (prompts, k, tokens)
  policy = -np.abs(rng.normal(size=shape)) - 0.05
  old_values = rng.normal(size=shape)
  numbers = {
    "policy_logps": policy,
    "reference_logps": np.minimum(policy + 0.4 * rng.normal(size=shape), -0.01),
    "sampler_logps": np.minimum(policy + 0.5 * rng.normal(size=shape), -0.01),
    "old_values": old_values,
    "values": old_values + 0.5 * rng.normal(size=shape),
    "advantages": rng.normal(size=shape),
    "token_feedback": rng.random(size=shape),
    "scores": rng.normal(size=shape[:2]),
    "token_scores": rng.normal(size=shape),
    "token_kl": 0.1 * np.abs(rng.normal(size=shape)),
    "entropy": np.abs(rng.normal(size=shape)),
    "log_collision": -np.abs(rng.normal(size=shape)) - 0.1,
    "contrast_logps": -np.abs(rng.normal(size=shape)) - 0.1,
  }
  known = {need.split(":")[0] for need in NEEDS}
  known -= {"noise", *FROM_DATA}
  if known != set(numbers) - {"policy_logps"}:
    raise ValueError(f"inputs.py and NEEDS differ: {known ^ set(numbers)}")
  return numbers


def from_sums(
  sums: Sequence[Sequence[float]],
  *,
  lengths: Sequence[Sequence[int]],
  kind: Feedback,
  feedback: Sequence[Sequence[float]],
  reference: Sequence[Sequence[float]] | None = None,
) -> LossInputs:
  """Inputs whose sequence sums [B, K] are given; float64 under x64.

  A sum is spread over its completion in proportion to 1, 2, .., N, so that no
  two tokens are alike.
  """
  lengths = np.asarray(lengths)
  tokens = lengths.max() + 1  # one column of padding everywhere
  mask = np.arange(tokens) < lengths[..., None]
  share = np.where(mask, np.arange(1.0, tokens + 1), 0.0)
  share = share / share.sum(-1, keepdims=True)

  def spread(sequence_sums):
    return jnp.asarray(np.asarray(sequence_sums, float)[..., None] * share)

  return LossInputs(
    policy_logps=spread(sums),
    reference_logps=None if reference is None else spread(reference),
    completion_mask=jnp.asarray(mask),
    present=jnp.ones(lengths.shape, bool),
    ended=jnp.ones(lengths.shape, bool),
    feedback=jnp.asarray(np.asarray(feedback, float)),
    weight=jnp.ones(len(lengths)),
    feedback_kind=kind,
  )


def golden_pairs(*, reference: bool = True) -> LossInputs:
  """The batch of methods.md 16.1: u_w = [1, -1], u_l = [-1, .5]."""
  return from_sums(
    [[-12.0, -15.0], [-20.5, -18.25]],
    reference=[[-13.0, -14.0], [-19.5, -18.75]] if reference else None,
    lengths=[[4, 6], [8, 5]],
    kind=Feedback.ORDER,
    feedback=[[1.0, 0.0], [1.0, 0.0]],
  )


def total(out) -> jax.Array:
  """What the step differentiates: sum / sum of the loss and of each term."""
  value = jnp.sum(out.loss) / jnp.maximum(jnp.sum(out.weight), 1e-30)
  for numerator, denominator in out.terms.values():
    value = value + jnp.sum(numerator) / jnp.maximum(
      jnp.sum(denominator), 1e-30
    )
  return value


def float_fields(x: LossInputs) -> dict[str, jax.Array]:
  """The float arrays of x by field name (state and key left out)."""
  arrays = {
    field.name: getattr(x, field.name)
    for field in dataclasses.fields(x)
    if isinstance(getattr(x, field.name), jax.Array)
  }
  return {
    name: value
    for name, value in arrays.items()
    if jnp.issubdtype(value.dtype, jnp.floating)
  }


def map_prompts(x: LossInputs, fn) -> LossInputs:
  """`fn` on every array that starts with the axis B (not on state and key).

  `fn` gets numpy arrays: they are changed without compiling anything.
  """
  changes = {}
  for field in dataclasses.fields(x):
    value = getattr(x, field.name)
    if isinstance(value, jax.Array) and field.name not in ("noise", "state"):
      changes[field.name] = jnp.asarray(fn(np.asarray(value)))
  return x.replace(**changes)


def token_gradient(method: Method, x: LossInputs, **keywords) -> np.ndarray:
  """Gradient of sum(loss) in the policy's token log-probs, [B, K, T].

  Of a loss of sequence sums, a completion's tokens all show dl/dS.
  """

  def loss(logps):
    return jnp.sum(method.loss(x.replace(policy_logps=logps), **keywords).loss)

  return np.asarray(jax.grad(loss)(x.policy_logps))


def numeric_gradient(fn, at: jax.Array, step: float = 1e-6) -> np.ndarray:
  """Central differences of a scalar function of one array, in float64."""
  at = np.asarray(at, np.float64)
  slopes = np.zeros_like(at)
  for place in np.ndindex(at.shape):
    high, low = at.copy(), at.copy()
    high[place] += step
    low[place] -= step
    slopes[place] = (fn(jnp.asarray(high)) - fn(jnp.asarray(low))) / (2 * step)
  return slopes
