"""Everything a training run needs before its first step, built from a config.

Cheap checks come first (config, data, lengths); weights are loaded and cached
numbers computed only when they have passed.
"""

import dataclasses
import functools
import hashlib

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import optax

from xpo_jax import checks, examples, methods, parallel, placement
from xpo_jax import config as config_lib
from xpo_jax.data import planning
from xpo_jax.errors import data_error
from xpo_jax.models import states
from xpo_jax.models.weights.tokenizer import Tokenizer
from xpo_jax.optimizer import make_optimizer, make_schedule
from xpo_jax.step import Objective, make_evaluate
from xpo_jax.trio import Frozen
from xpo_jax.types import PyTree, TrainState


@dataclasses.dataclass(frozen=True)
class Job:
  """A run, ready to start."""

  config: object
  mesh: jax.sharding.Mesh
  tokenizer: Tokenizer
  objective: Objective
  frozen: Frozen
  start: PyTree  # trainable parameters, host
  logical: PyTree  # their logical axes
  train: examples.Dataset
  evaluation: examples.Dataset | None
  plan: planning.Plan
  steps: int
  tx: optax.GradientTransformation
  schedule: optax.Schedule

  @functools.cached_property
  def evaluate(self):
    """The jitted evaluation of one batch, compiled once a run."""
    return jax.jit(make_evaluate(self.objective))


def build(config, devices=None) -> Job:
  """Validates, loads, caches and plans.

  Raises:
    XpoError: whatever is wrong with config, data or weights, in that order.
  """
  devices = jax.devices() if devices is None else devices
  config_lib.validate(config, devices=len(devices))
  method = methods.get(config.method.name)
  settings = method.settings(
    {k: v for k, v in config.method.items() if k != "name"}
  )
  mesh = parallel.make_mesh(
    *config_lib.mesh_shape(config, len(devices)), devices=devices
  )
  raw, held_raw = examples.read(config, method, settings)
  _enough(config, len(raw.groups))
  base = placement.load_policy(config, examples.texts(raw))
  model = placement.make_model(config, base.model)
  parallel.check_divides(model.config, mesh)
  groups = examples.tokenize(config, raw, base.tokenizer)
  plan, steps = _plan(config, groups, mesh)
  parts = placement.start_params(config, model, base, method, settings)
  frozen, reference = placement.make_frozen(
    config, mesh, model, parts, method, settings
  )
  numbers = examples.FrozenNumbers(model, parts.trunk, reference)
  seen = [groups.tokens[i] for i in np.unique(plan.order)]
  finish = lambda part, seen, name: examples.finish(
    config, method, settings, numbers, part, seen, name
  )
  held_out = None
  if held_raw is not None:
    part = examples.tokenize(config, held_raw, base.tokenizer)
    held_out = finish(part, part.tokens, "held-out")
  return Job(
    config=config,
    mesh=mesh,
    tokenizer=base.tokenizer,
    objective=Objective(model, method, settings),
    frozen=frozen,
    start=parts.trainable,
    logical=parts.logical,
    train=finish(groups, seen, "train"),
    evaluation=held_out,
    plan=plan,
    steps=steps,
    tx=make_optimizer(config.optimizer, steps),
    schedule=make_schedule(config.optimizer, steps),
  )


def _enough(config, count: int) -> None:
  if config.batch.prompts > count:
    raise data_error(
      f"{config.data.source}: {count} usable examples are fewer than "
      f"batch.prompts={config.batch.prompts}; lower it to at most {count}"
    )


def _plan(config, groups, mesh) -> tuple[planning.Plan, int]:
  batch, count = config.batch, len(groups.tokens)
  _enough(config, count)
  steps = config.train.steps or planning.steps_of(
    config.train.epochs, count, batch.prompts
  )
  checks.check_steps(config, steps)
  plan = planning.plan(
    planning.group_lengths(groups.tokens),
    prompts=batch.prompts,
    row_length=batch.row_length,
    steps=steps,
    microbatches=batch.microbatches,
    row_multiple=mesh.shape["data"] * mesh.shape["fsdp"],
    seed=config.seed,
    ids=[g.id for g in groups.tokens],
  )
  return plan, steps


def init_state(job: Job) -> TrainState:
  """The whole TrainState, every leaf sharded like its parameter."""
  boxed = jax.tree.map(
    lambda x, spec: nn.LogicallyPartitioned(x, names=tuple(spec)),
    jax.eval_shape(lambda: jax.tree.map(jnp.asarray, job.start)),
    job.logical,
  )
  names = _moment_specs(jax.eval_shape(job.tx.init, boxed))
  params = parallel.put_params(job.mesh, job.start, job.logical)
  init = jax.jit(job.tx.init, out_shardings=parallel.shardings(job.mesh, names))
  one = parallel.replicated(job.mesh)
  make = job.objective.method.init_state
  method_state = make(job.objective.settings) if make else None
  scalar = lambda: jax.device_put(jnp.zeros((), jnp.int32), one)
  key = jax.random.fold_in(jax.random.key(job.config.seed), 3)
  return TrainState(
    step=scalar(),
    params=params,
    opt_state=init(params),
    key=jax.device_put(key, one),
    method_state=jax.device_put(method_state, one),
    skipped=scalar(),
  )


def _moment_specs(boxed: PyTree) -> PyTree:
  """A moment is sharded like its parameter, or replicated if it is factored."""

  def spec(leaf):
    if not isinstance(leaf, nn.LogicallyPartitioned):
      return PartitionSpec()
    whole = len(leaf.names) == leaf.value.ndim
    return PartitionSpec(*leaf.names if whole else ())

  is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)
  return jax.tree.map(spec, boxed, is_leaf=is_box)


def fingerprints(job: Job) -> dict[str, str]:
  """Short content hashes that go into every checkpoint's metadata."""
  groups = job.train.groups
  short = lambda text: hashlib.sha256(text.encode()).hexdigest()[:16]
  feedback = str([g.feedback for g in groups])
  return {
    "config": short(config_lib.to_json(job.config)),
    "data": short(states.tokens_fingerprint(groups) + feedback),
    "tokenizer": job.tokenizer.fingerprint()[:16],
  }
