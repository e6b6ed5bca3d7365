"""The mesh and the one table of axis rules.

Parameters carry logical names where they are declared; this table maps the
names to mesh axes. An unknown name is an error, not a silent replication.
"""

import contextlib
import math

from flax import linen as nn
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from xpo_jax.errors import usage_error
from xpo_jax.types import PyTree

AXES = ("data", "fsdp", "tensor")
AXIS_RULES = (
  ("rows", ("data", "fsdp")),
  ("vocab", "tensor"),
  ("embed", "fsdp"),
  ("heads", "tensor"),
  ("kv_heads", "tensor"),
  ("mlp", "tensor"),
  ("head", None),
  ("norm", None),
  ("layers", None),
  ("lora", None),
)
ROWS = PartitionSpec(("data", "fsdp"))


def make_mesh(
  data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None
) -> Mesh:
  """A mesh over all devices; one size may be -1 ("the rest").

  Raises:
    XpoError: the product of the sizes is not the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [data, fsdp, tensor]
  if sizes.count(-1) > 1:
    raise usage_error(f"mesh={sizes}: only one axis may be -1")
  known = math.prod(s for s in sizes if s != -1)
  sizes = [len(devices) // known if s == -1 else s for s in sizes]
  if min(sizes) < 1 or math.prod(sizes) != len(devices):
    raise usage_error(
      f"mesh data x fsdp x tensor = {data} x {fsdp} x {tensor} does not make "
      f"the {len(devices)} devices here; set one of them to -1"
    )
  grid = np.asarray(devices).reshape(sizes)
  # linen's logical constraints raise under jax's default Explicit axes.
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


@contextlib.contextmanager
def use(mesh: Mesh):
  """Inside, logical constraints bite."""
  with jax.set_mesh(mesh), nn.logical_axis_rules(AXIS_RULES):
    yield mesh


def shardings(mesh: Mesh, logical: PyTree) -> PyTree:
  """Trees of logical PartitionSpecs -> trees of NamedShardings.

  Raises:
    XpoError: a logical name without a rule.
  """
  rules = dict(AXIS_RULES)

  def resolve(spec):
    names = []
    for name in spec:
      if name is not None and name not in rules:
        raise usage_error(
          f"parameter axis {name!r} has no rule; add it to parallel.AXIS_RULES"
        )
      names.append(None if name is None else rules[name])
    return NamedSharding(mesh, PartitionSpec(*names))

  return jax.tree.map(
    resolve, logical, is_leaf=lambda x: isinstance(x, PartitionSpec)
  )


def check_divides(config, mesh: Mesh) -> None:
  """Heads, MLP, vocabulary and width must split evenly over the mesh."""
  for name, axis in (
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("mlp_width", "tensor"),
    ("vocab_size", "tensor"),
    ("width", "fsdp"),
  ):
    size, parts = getattr(config, name), mesh.shape[axis]
    if size % parts:
      raise usage_error(
        f"mesh.{axis}={parts} does not divide the model's {name}={size}; "
        f"choose a divisor of {size}"
      )


def put_batch(mesh: Mesh, batch: PyTree) -> PyTree:
  """Host arrays [n, rows or prompts, ...] -> arrays sharded on axis 1.

  Every process holds the whole host batch and keeps only its own part.
  """
  sharding = NamedSharding(mesh, PartitionSpec(None, *ROWS))

  def put(x):
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])

  return jax.tree.map(put, batch)


def put_params(mesh: Mesh, params: PyTree, logical: PyTree) -> PyTree:
  """Host parameters -> arrays sharded by the table."""

  def put(x, sharding):
    return jax.make_array_from_callback(
      x.shape, sharding, lambda i: np.asarray(x[i])
    )

  return jax.tree.map(put, params, shardings(mesh, logical))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of scalars."""
  return NamedSharding(mesh, PartitionSpec())
