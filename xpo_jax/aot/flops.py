"""Matrix FLOPs of a traced program, loops and recomputation included."""

import math

import jax


def matrix_flops(jaxpr: jax.extend.core.Jaxpr) -> int:
  """2 m n k of every dot_general, as often as its loops run it.

  A while loop without a static length counts once; of branches the costliest
  counts.
  """
  total = 0
  for eqn in jaxpr.eqns:
    name = eqn.primitive.name
    if name == "dot_general":
      total += _dot(eqn)
      continue
    inner = [matrix_flops(sub) for sub in _inner(eqn)]
    if name == "cond":
      total += max(inner, default=0)
    elif name == "scan":
      total += eqn.params["length"] * sum(inner)
    else:
      total += sum(inner)
  return total


def _dot(eqn) -> int:
  (contract, _), _ = eqn.params["dimension_numbers"]
  left = eqn.invars[0].aval.shape
  depth = math.prod(left[i] for i in contract)
  return 2 * depth * math.prod(eqn.outvars[0].aval.shape)


def _inner(eqn):
  """Jaxprs among an equation's parameters."""
  for value in eqn.params.values():
    for part in value if isinstance(value, tuple | list) else (value,):
      part = getattr(part, "jaxpr", part)
      if hasattr(part, "eqns"):
        yield part
