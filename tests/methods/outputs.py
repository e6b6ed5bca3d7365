"""Runs a registered method and compares what comes out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.methods import inputs
from tests.methods.variants import make
from xpo_jax.methods import registry

JUNK = np.array([np.nan, np.inf, -np.inf, 1e30])
QUICK = {  # to compile, not to run
  "xla_backend_optimization_level": 0,
  "xla_cpu_use_fusion_emitters": False,
}


def batches(name, **options):
  """(method, inputs) for each feedback kind and K at the defaults."""
  method = registry.get(name)
  for case in inputs.cases(method, method.keywords):
    yield method, make(method, case, **options)


def longest(name, **options):
  """(method, inputs) of the first feedback kind with its largest K."""
  method = registry.get(name)
  kind, _ = inputs.cases(method, method.keywords)[0]
  k = inputs.list_sizes(method, method.keywords, kind)[-1]
  return method, make(method, (kind, k), **options)


@functools.cache
def compiled(name):
  """x -> LossOutput, gradients of the total, gradients of sum(metrics)."""
  method = registry.get(name)

  def run(x):
    def totals(fields):
      out = method.loss(x.replace(**fields))
      measured = sum(jnp.sum(m) for m in out.metrics.values())
      return (inputs.total(out), jnp.asarray(measured, out.loss.dtype)), out

    fields = inputs.float_fields(x)
    (value, measured), pull, out = jax.vjp(totals, fields, has_aux=True)
    one, zero = jnp.ones_like(value), jnp.zeros_like(value)
    return out, pull((one, zero))[0], pull((zero, one))[0]

  return jax.jit(run, compiler_options=QUICK)


def loss_of(name, x):
  return compiled(name)(x)[0]


def numbers(out, metrics=True):
  """Everything [B] of a LossOutput by name."""
  found = {"loss": out.loss, "weight": out.weight}
  for term, (numerator, denominator) in out.terms.items():
    found |= {f"{term}/sum": numerator, f"{term}/count": denominator}
  if metrics:
    found |= out.metrics
  return {k: np.asarray(v) for k, v in found.items()}


def assert_same(got, want, **tolerance):
  assert got.keys() == want.keys()
  tolerance = {"rtol": 1e-9, "atol": 1e-9} | tolerance
  for key in want:
    np.testing.assert_allclose(
      got[key], want[key], err_msg=f"differs: {key}", **tolerance
    )


def assert_same_state(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    np.testing.assert_allclose(a, b, rtol=1e-9)


def spoiled(x):
  """x with junk wherever a mask says that nothing is there."""
  masks = {3: np.asarray(x.completion_mask), 2: np.asarray(x.present)}

  def spoil(value):
    if value.ndim not in masks or value.dtype == bool:
      return value
    junk = np.resize(JUNK, value.shape)
    return np.where(masks[value.ndim], value, junk)

  return inputs.map_prompts(x, spoil)
