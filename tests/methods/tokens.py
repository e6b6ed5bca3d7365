"""What tests of token, list and reward losses share: inputs from arrays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.methods import inputs
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs, LossOutput


def softplus(z):
  return np.logaddexp(0.0, z)


def sigma(z):
  return 1 / (1 + np.exp(-np.asarray(z, float)))


def from_arrays(kind: Feedback, feedback, *, mask=None, **fields) -> LossInputs:
  """LossInputs out of nested lists; no mask = every token counts.

  Args:
    kind: of the feedback.
    feedback: [B, K].
    mask: [B, K, T].
    **fields: of LossInputs, [B, K] or [B, K, T].
  """
  arrays = {k: jnp.asarray(np.asarray(v, float)) for k, v in fields.items()}
  feedback = jnp.asarray(np.asarray(feedback, float))
  tokens = [a.shape for a in arrays.values() if a.ndim == 3]
  shape = tokens[0] if tokens else (*feedback.shape, 1)
  mask = np.ones(shape) if mask is None else mask
  return LossInputs(
    **{"policy_logps": None, **arrays},
    completion_mask=jnp.asarray(np.asarray(mask, bool)),
    present=jnp.ones(feedback.shape, bool),
    ended=jnp.ones(feedback.shape, bool),
    feedback=feedback,
    weight=jnp.ones(len(feedback)),
    feedback_kind=kind,
  )


def absent(x: LossInputs, *places: tuple[int, int]) -> LossInputs:
  """x without the completions (b, k); what they held stays as junk."""
  present, mask = np.array(x.present), np.array(x.completion_mask)
  for b, k in places:
    present[b, k] = False
    mask[b, k] = False
  return x.replace(
    present=jnp.asarray(present), completion_mask=jnp.asarray(mask)
  )


def prompts(x: LossInputs, *rows: int) -> LossInputs:
  """The batch of these prompts."""
  return inputs.map_prompts(x, lambda v: v[list(rows)])


def completions(x: LossInputs, *places: int) -> LossInputs:
  """The batch of these completions of every prompt."""
  return inputs.map_prompts(
    x, lambda v: v if v.ndim == 1 else v[:, list(places)]
  )


@functools.cache
def _compiled(name, settings, field=None):
  """A compiled loss, or its gradient in one field: eager ops cost more."""
  method = registry.get(name)

  def loss(x):
    return method.loss(x, **dict(settings))

  def total(array, x):
    return inputs.total(loss(x.replace(**{field: array})))

  return jax.jit(jax.grad(total) if field else loss)


def run(name: str, x: LossInputs, **keywords) -> LossOutput:
  return _compiled(name, tuple(sorted(keywords.items())))(x)


def value(name: str, x: LossInputs, **keywords) -> float:
  """What a step reports: sums over sums, of the loss and of its terms."""
  out = run(name, x, **keywords)
  parts = [(out.loss, out.weight), *out.terms.values()]
  return sum(np.sum(n) / max(np.sum(d), 1e-30) for n, d in parts)


def per_prompt(name: str, x: LossInputs, **keywords) -> np.ndarray:
  """Loss of each prompt, where a prompt weighs 1."""
  out = run(name, x, **keywords)
  np.testing.assert_array_equal(out.weight, np.ones(len(out.weight)))
  assert not out.terms
  return np.asarray(out.loss)


def gradient(
  name: str, x: LossInputs, field: str = "policy_logps", **keywords
) -> np.ndarray:
  """Gradient of `value` in one field of the inputs."""
  fn = _compiled(name, tuple(sorted(keywords.items())), field)
  return np.asarray(fn(getattr(x, field), x))


def check_gradient(
  name: str, x: LossInputs, field: str = "policy_logps", **keywords
) -> None:
  """`gradient` against a central difference of `value` along a random line."""
  at = np.asarray(getattr(x, field))
  line = np.random.default_rng(0).normal(size=at.shape)
  move = lambda step: x.replace(**{field: jnp.asarray(at + step * line)})
  step = 1e-6
  high, low = (value(name, move(s), **keywords) for s in (step, -step))
  want = (high - low) / (2 * step)
  assert abs(want) > 1e-4, "this slope is 0 anyway"
  got = np.sum(gradient(name, x, field, **keywords) * line)
  np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)


def close(got, want, atol=1e-9):
  """Golden vectors have ten digits."""
  np.testing.assert_allclose(got, want, rtol=0, atol=atol)
