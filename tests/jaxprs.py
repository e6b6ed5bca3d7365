"""What a program computes, read from its jaxpr: matmuls by whose weights."""

import collections
import math

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.interpreters.partial_eval import dce_jaxpr

# What hands on a weight as it is.
MOVES = frozenset(
  "convert_element_type copy dynamic_slice optimization_barrier reshape "
  "sharding_constraint slice squeeze stop_gradient transpose".split()
)


def trace(fn, *args):
  """[(equation, where its inputs come from, how often it runs)] of fn(*args).

  An input that is one of the args, perhaps moved or cast, comes from that leaf:
  its path by names, as "0/policy/top/blocks/mlp/gate"; any other is None.
  Equations that no output depends on are left out, as the compiler does.

  Args:
    fn: of trees of arrays.
    *args: arrays, or their shapes.
  """
  closed = jax.make_jaxpr(fn)(*args)
  jaxpr, _ = dce_jaxpr(closed.jaxpr, True, True)
  leaves = jax.tree_util.tree_leaves_with_path(args)
  found = []
  _walk(jaxpr, [_name(path) for path, _ in leaves], 1, found)
  return found


def read(fn, tree) -> set[str]:
  """Names of the leaves of `tree` that fn(tree) depends on.

  What is multiplied by a constant 0 counts as not read.
  """
  closed = jax.make_jaxpr(fn)(tree)
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return set().union(*_sources(closed.jaxpr, [{_name(p)} for p, _ in leaves]))


def _sources(jaxpr, sources):
  """The leaves behind every output of a jaxpr."""
  known = dict(zip(jaxpr.invars, sources, strict=True))
  of = lambda v: set() if isinstance(v, Literal) else known.get(v, set())
  for eqn in jaxpr.eqns:
    ins, name = [of(v) for v in eqn.invars], eqn.primitive.name
    outs = [set().union(*ins)] * len(eqn.outvars)
    zeros = [v for v in eqn.invars if isinstance(v, Literal) and v.val == 0]
    if name == "mul" and zeros:
      outs = [set()]
    parts = list(_parts(eqn)) if name == "jit" else []
    for part in parts:
      outs = _sources(part, ins)
    known.update(zip(eqn.outvars, outs, strict=True))
  return [of(v) for v in jaxpr.outvars]


def _name(path) -> str:
  part = lambda k: getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))
  return "/".join(str(part(k)) for k in path)


def _walk(jaxpr, origins, times, found):
  """Appends to `found`; returns where the outputs come from."""
  known = dict(zip(jaxpr.invars, origins, strict=True))
  of = lambda v: None if isinstance(v, Literal) else known.get(v)
  for eqn in jaxpr.eqns:
    ins, name = [of(v) for v in eqn.invars], eqn.primitive.name
    parts = list(_parts(eqn))
    if not parts:
      found.append((eqn, ins, times))
      if name in MOVES:
        known[eqn.outvars[0]] = ins[0]
    for part in parts:
      runs = times * eqn.params["length"] if name == "scan" else times
      same = len(part.invars) == len(ins)
      outs = _walk(
        part, ins if same else [None] * len(part.invars), runs, found
      )
      if name != "scan" and len(outs) == len(eqn.outvars):
        known.update(zip(eqn.outvars, outs))
  return [of(v) for v in jaxpr.outvars]


def _parts(eqn):
  """The jaxprs inside of an equation."""
  for value in eqn.params.values():
    for part in value if isinstance(value, tuple | list) else [value]:
      if isinstance(part, ClosedJaxpr):
        yield part.jaxpr
      elif isinstance(part, Jaxpr):
        yield part


def products(found, sizes) -> collections.Counter:
  """{(leaf, "forward" | "backward"): tokens} of the products with weights.

  A product with a weight whose inner axis is the model's width goes forward,
  any other (it hands a gradient back) backward.

  Args:
    found: from `trace`.
    sizes: leaf's last name -> its outer axes, as {"gate": {24}}.
  """
  total = collections.Counter()
  for eqn, ins, times in found:
    if eqn.primitive.name != "dot_general":
      continue
    for side, leaf in enumerate(ins):
      if leaf is None or leaf.split("/")[-1] not in sizes:
        continue
      outer = sizes[leaf.split("/")[-1]]
      dims = eqn.params["dimension_numbers"][0][side]
      inner = {eqn.invars[side].aval.shape[d] for d in dims}
      way = "backward" if not inner or inner & outer else "forward"
      shape = eqn.outvars[0].aval.shape
      tokens = math.prod(n for n in shape if n not in outer)
      total[leaf, way] += times * tokens
  return total


def widest(found, size: int) -> int:
  """The most elements beside an axis of `size` in any array of a program."""
  shapes = {
    v.aval.shape
    for eqn, _, _ in found
    for v in (*eqn.invars, *eqn.outvars)
    if hasattr(v.aval, "shape")
  }
  return max(
    (math.prod(s) // size for s in shapes if size in s),
    default=0,
  )
