"""The mesh and the one table of axis rules.

Parameters carry logical names where they are declared; this table maps the
names to mesh axes. An unknown name is an error, not a silent replication.
"""

import contextlib
import os
from pathlib import Path
import sys

from flax import linen as nn
import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from xpo_jax import watchdog
from xpo_jax.errors import usage_error
from xpo_jax.types import PyTree

AXES = ("data", "fsdp", "tensor")
AXIS_RULES = (
  ("rows", ("data", "fsdp")),
  ("slots", "tensor"),  # of the sampler, while it draws
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
HEARTBEAT_SECONDS = 10
SHUTDOWN_SECONDS = 120  # a host waits so long for the others to end, too
JOIN_SECONDS = 300  # and so long for them to come, unless XPO_JOIN_SECONDS says


def start(cache: Path) -> None:
  """Prepares jax for a command, before anything asks for devices.

  Compiled programs are kept below `cache`, private to this user. Other hosts
  of the run are joined if the environment names them: JAX_COORDINATOR_ADDRESS
  with JAX_NUM_PROCESSES and JAX_PROCESS_ID, or TPU_WORKER_HOSTNAMES with
  several names. A host that has died is noticed after `HEARTBEAT_SECONDS`; one
  that never came ends the others after `JOIN_SECONDS`.
  """
  watchdog.show_crashes()
  folder = cache / "compiled"
  folder.mkdir(mode=0o700, parents=True, exist_ok=True)
  jax.config.update("jax_compilation_cache_dir", str(folder))
  address = os.environ.get("JAX_COORDINATOR_ADDRESS")
  if address:
    jax.distributed.initialize(
      address,
      _number("JAX_NUM_PROCESSES"),
      _number("JAX_PROCESS_ID"),
      **_seconds(),
    )
  elif "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
    jax.distributed.initialize(**_seconds())


def abandon(code: int) -> None:
  """Ends a process of several whose error the others do not share.

  An ordinary exit would wait for them while they wait for this one; so they
  learn of it from its lost connection or heartbeat. One process alone returns.
  """
  if not jax.distributed.is_initialized() or jax.process_count() == 1:
    return
  sys.stdout.flush()
  sys.stderr.flush()
  watchdog.show_stacks()
  os._exit(code)


def _seconds() -> dict[str, int]:
  return {
    "initialization_timeout": _number("XPO_JOIN_SECONDS", str(JOIN_SECONDS)),
    "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
    "shutdown_timeout_seconds": SHUTDOWN_SECONDS,
  }


def _number(name: str, default: str = "") -> int:
  text = os.environ.get(name, default)
  if not text.isdigit():
    raise usage_error(f"{name}={text!r} must be a number when hosts are joined")
  return int(text)


def make_mesh(data: int, fsdp: int, tensor: int, devices) -> Mesh:
  """A mesh; config.mesh_shape has checked that the sizes fit the devices."""
  grid = np.asarray(devices).reshape(data, fsdp, tensor)
  # linen's logical constraints raise under jax's default Explicit axes.
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def all_devices(config) -> Mesh:
  """All devices share the rows, and the weights where these divide."""
  devices = jax.devices()
  count = len(devices)
  shape = (1, count) if config.width % count == 0 else (count, 1)
  return make_mesh(*shape, 1, devices=devices)


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
  return _put(batch, NamedSharding(mesh, PartitionSpec(None, *ROWS)))


def put_rows(mesh: Mesh, tree: PyTree) -> PyTree:
  """Host arrays [rows, ...] -> arrays sharded on axis 0."""
  return _put(tree, NamedSharding(mesh, ROWS))


def _put(tree: PyTree, sharding: NamedSharding) -> PyTree:
  def put(x):
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])

  return jax.tree.map(put, tree)


def abstract(tree: PyTree) -> PyTree:
  """Shapes and dtypes of arrays, without reading those still in files."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, jax.dtypes.canonicalize_dtype(x.dtype)
    ),
    tree,
  )


def put_params(mesh: Mesh, params: PyTree, logical: PyTree) -> PyTree:
  """Host parameters -> arrays sharded by the table.

  Of a parameter that is still in files (`weights.names.Leaf`), a host reads its
  own devices' parts only.
  """

  def put(x, sharding):
    return jax.make_array_from_callback(
      x.shape, sharding, lambda i: np.asarray(x[i])
    )

  return jax.tree.map(put, params, shardings(mesh, logical))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of scalars."""
  return NamedSharding(mesh, PartitionSpec())


def all_agree(holds: bool) -> bool:
  """Whether it holds on every process."""
  if jax.process_count() == 1:
    return holds
  return bool(multihost_utils.process_allgather(np.bool_(holds)).all())


def to_host(x: jax.Array) -> np.ndarray:
  """The whole array on every process."""
  if x.is_fully_addressable:
    return np.asarray(x)
  return np.asarray(multihost_utils.process_allgather(x, tiled=True))
