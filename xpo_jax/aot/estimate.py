"""What the compiler says about a step on a pod: memory, traffic, time."""

import dataclasses
import math
import re

import jax

from xpo_jax import parallel
from xpo_jax.aot import flops as flops_lib
from xpo_jax.aot import hlo
from xpo_jax.aot.abstract import Program
from xpo_jax.aot.topologies import GIB, Topology
from xpo_jax.errors import storage_error
from xpo_jax.step import make_train_step

_OOM = re.compile(r"Used ([\d.]+)([MG]) of ([\d.]+)([MG]) hbm", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A compiled step; every time is an estimate, nothing has run.

  memory: part -> GiB a device. traffic: kind -> (collectives, GB, GB sent by a
  device). flops: of matrix products a device, recomputation included.
  model_flops: 6 N tokens of the policy, 2 N of a live reference, a device.
  """

  topology: Topology
  memory: dict[str, float]
  needed: float  # GiB a device
  traffic: dict[str, tuple[int, float, float]]
  flops: float
  model_flops: float
  cycles: int
  expensive: list[tuple[int, int, str]]
  text: str

  @property
  def matrix_seconds(self) -> float:
    """All matrix products at the chip's peak: no step is faster."""
    return self.flops / self.topology.chip.flops

  @property
  def cycle_seconds(self) -> float:
    """The compiler's own cycles, without collectives."""
    return self.cycles / self.topology.chip.clock

  @property
  def link_seconds(self) -> float:
    """All collectives on links at their peak, one after the other."""
    sent = sum(moved for _, _, moved in self.traffic.values())
    return sent * 1e9 / self.topology.chip.links

  @property
  def mfu(self) -> float:
    """Model FLOPs over peak, if links hide behind cycles."""
    seconds = max(self.cycle_seconds, self.link_seconds)
    return self.model_flops / (seconds * self.topology.chip.flops)


def compile_step(program: Program, topology: Topology) -> Estimate:
  """Compiles the step for the pod.

  Raises:
    XpoError: (74) it does not fit into the devices' memory, by the compiler's
      own account.
  """
  state = program.state
  keep = jax.tree.map(lambda x: x.sharding, state)
  step = make_train_step(program.objective, program.tx, program.schedule)
  with parallel.use(program.mesh):
    traced = jax.jit(
      step,
      donate_argnums=0,
      out_shardings=(keep, parallel.replicated(program.mesh)),
    ).trace(state, program.frozen, program.batch)
    lowered = traced.lower(lowering_platforms=(topology.platform,))
    try:
      compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as e:
      raise _too_big(e, topology) from e
  text = compiled.as_text()
  module = hlo.parse(text)
  cycles, expensive = hlo.cycles(module)
  stats = compiled.memory_analysis()
  devices = program.mesh.size
  needed = (
    stats.argument_size_in_bytes
    + stats.temp_size_in_bytes
    + stats.output_size_in_bytes
    - stats.alias_size_in_bytes
  )
  if needed > topology.chip.hbm * GIB:  # the CUDA compiler does not object
    raise _does_not_fit(topology, needed / GIB, topology.chip.hbm)
  traffic = hlo.totals(hlo.collectives(module))
  return Estimate(
    topology=topology,
    memory=resident(program) | {"activations": stats.temp_size_in_bytes / GIB},
    needed=needed / GIB,
    traffic={k: (n, b / 1e9, m / 1e9) for k, (n, b, m) in traffic.items()},
    flops=flops_lib.matrix_flops(traced.jaxpr.jaxpr) / devices,
    model_flops=model_flops(program) / devices,
    cycles=cycles,
    expensive=expensive,
    text=text,
  )


def _too_big(e: Exception, topology: Topology):
  match = _OOM.search(str(e))
  if not match:
    first = str(e).strip().split("\n")[0]
    return storage_error(f"{topology.name}: the compiler refused: {first:.300}")
  size = lambda n, unit: float(n) / (1 if unit.upper() == "G" else 1024)
  used, most = size(*match.groups()[:2]), size(*match.groups()[2:])
  return _does_not_fit(topology, used, most)


def _does_not_fit(topology: Topology, used: float, most: float):
  return storage_error(
    f"{topology.name}: the step does not fit: needs {used:.2f} of {most:.2f} "
    "GiB a device; take more devices, more batch.microbatches, "
    "reference.mode=cached or lora.rank"
  )


def bytes_a_device(tree) -> int:
  """Bytes that one device holds of abstract arrays."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * _width(x.dtype)
    for x in jax.tree.leaves(tree)
  )


def _width(dtype) -> int:
  return (
    8 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else dtype.itemsize
  )


def resident(program: Program) -> dict[str, float]:
  """Part -> GiB a device of everything that stays between steps."""
  state, frozen = program.state, program.frozen
  parts = {
    "policy": state.params["policy"],
    "value": state.params.get("value"),
    "moments": state.opt_state,
    "reference": frozen.reference,
    "base (LoRA)": frozen.top,
    "trunk": frozen.trunk or None,
    "batch": program.batch,
  }
  return {
    name: bytes_a_device(tree) / GIB
    for name, tree in parts.items()
    if tree is not None
  }


def model_flops(program: Program) -> float:
  """Useful FLOPs of a step: 6 N a token trained, 2 N a token of a reference.

  N counts kernels a token goes through; the head only where it is scored.
  """
  model, shape = program.objective.model, program.shape
  c = model.config
  tokens = shape.rows * shape.row_length
  scored = shape.rows * shape.targets
  block = c.width * c.head_dim * (2 * c.heads + 2 * c.kv_heads)
  block += c.width * c.mlp_width * (3 if c.gated else 2)
  trained = (c.layers - model.trunk_blocks) * block * tokens
  head = c.width * c.vocab_size * scored
  once = trained + (0 if program.objective.method.trains_reward else head)
  count = program.batch.tokens.shape[0]
  # A frozen kernel (LoRA) has no gradient of its own.
  factor = 4 if model.lora[0] else 6
  return count * (factor * once + (2 * once if program.live_reference else 0))
