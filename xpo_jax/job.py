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

from xpo_jax import (
  auxiliary,
  checks,
  examples,
  methods,
  parallel,
  placement,
)
from xpo_jax import config as config_lib
from xpo_jax.data import dialogues, planning, templates
from xpo_jax.errors import data_error, usage_error
from xpo_jax.methods.registry import Method
from xpo_jax.models import states
from xpo_jax.models.weights.tokenizer import Tokenizer
from xpo_jax.online import prompts as prompts_lib
from xpo_jax.online import settings as online_settings
from xpo_jax.optimizer import make_optimizer, make_schedule
from xpo_jax.step import Objective, make_evaluate
from xpo_jax.trio import Frozen
from xpo_jax.types import PyTree, TrainState


@dataclasses.dataclass(frozen=True)
class Online:
  """Prompts of an on-policy run; `Job.train` has the same as groups."""

  train: prompts_lib.Prompts
  held: prompts_lib.Prompts | None
  end_id: int  # of a completion


@dataclasses.dataclass(frozen=True)
class Job:
  """A run, ready to start."""

  config: object
  mesh: jax.sharding.Mesh
  tokenizer: Tokenizer
  objective: Objective
  frozen: Frozen
  start: PyTree  # trainable parameters, host
  weights: dict[str, str]  # fingerprints of what stays frozen
  logical: PyTree  # their logical axes
  train: examples.Dataset
  evaluation: examples.Dataset | None
  plan: planning.Plan
  aux: auxiliary.Auxiliary | None
  steps: int
  tx: optax.GradientTransformation
  schedule: optax.Schedule
  online: Online | None = None  # of an on-policy run

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
  if online_settings.is_online(config):
    return _build_online(config, mesh, method, settings)
  refuse_on_policy(method, settings)
  raw, held_raw = examples.read(config, method, settings)
  _enough(config, len(raw.groups))
  extra = _read_auxiliary(config)
  texts = examples.texts(raw) + (examples.texts(extra.raw) if extra else [])
  base = placement.load_policy(config, texts)
  model = placement.make_model(config, base.model)
  parallel.check_divides(model.config, mesh)
  groups = examples.tokenize(config, raw, base.tokenizer)
  steps = _steps(config, len(groups.tokens))
  plan = _plan(config, groups, mesh, steps, config.seed)
  parts = placement.start_params(config, model, base, method, settings)
  needs = method.needs(settings) | (extra.method.needs({}) if extra else set())
  frozen, reference = placement.make_frozen(config, mesh, model, parts, needs)
  numbers = examples.FrozenNumbers(
    model, parts.trunk, reference, placement.devices_of(mesh, model)
  )
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
    weights=placement.fingerprints(model, parts, reference, needs),
    logical=parts.logical,
    train=finish(groups, seen, "train"),
    evaluation=held_out,
    plan=plan,
    aux=_auxiliary(extra, mesh, base.tokenizer, numbers, steps),
    steps=steps,
    tx=make_optimizer(config.optimizer, steps),
    schedule=make_schedule(config.optimizer, steps),
  )


def _build_online(config, mesh, method: Method, settings: dict) -> Job:
  """The same for samples of the policy: `Job.train` are prompts."""
  raw, raw_held = prompts_lib.read(config)
  extra = _read_auxiliary(config)
  base = placement.load_policy(config, _texts(raw, extra))
  model = placement.make_model(config, base.model)
  parallel.check_divides(model.config, mesh)
  prompts = prompts_lib.tokenize(config, raw, base.tokenizer)
  held = None
  if raw_held:
    held = prompts_lib.tokenize(config, raw_held, base.tokenizer)
  number = prompts_lib.rollouts(config, len(prompts.groups))
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  steps = number * online_settings.sizes(config).updates
  checks.check_steps(config, steps)
  start = placement.start_params(config, model, base, method, settings)
  needs = method.needs(settings) | method.prepare_needs(settings)
  needs |= extra.method.needs({}) if extra else set()
  frozen, reference = placement.make_frozen(config, mesh, model, start, needs)
  numbers = examples.FrozenNumbers(
    model, start.trunk, reference, placement.devices_of(mesh, model)
  )
  kind = online_settings.KINDS[config.rollout.select]
  form = templates.make_template(base.tokenizer, config.data.template)
  return Job(
    config=config,
    mesh=mesh,
    tokenizer=base.tokenizer,
    objective=Objective(
      model, method, settings, float(config.rollout.temperature)
    ),
    frozen=frozen,
    start=start.trainable,
    weights=placement.fingerprints(model, start, reference, needs),
    logical=start.logical,
    train=examples.Dataset(prompts.groups, prompts.table, kind, {}, None),
    evaluation=None,
    plan=prompts_lib.plan(
      config, prompts.groups, number, parts, held.groups if held else ()
    ),
    aux=_auxiliary(extra, mesh, base.tokenizer, numbers, steps),
    steps=steps,
    tx=make_optimizer(config.optimizer, steps),
    schedule=make_schedule(config.optimizer, steps),
    online=Online(prompts, held, form.end_id),
  )


def _texts(prompts, extra) -> list[str]:
  """What the tiny preset's tokenizer learns from."""
  text = lambda p: dialogues.as_text(p)
  own = [text(g.prompt) for g in prompts]
  return own + (examples.texts(extra.raw) if extra else [])


def refuse_on_policy(method, settings: dict) -> None:
  """Raises for losses on samples of the policy, which no file holds."""
  drawn = {"sampler_logps", "old_values", "advantages"}
  missing = sorted(drawn & method.needs(settings))
  if missing:
    raise usage_error(
      f"method.name={method.id!r} learns from samples of the policy "
      f"({', '.join(missing)}), fixed data have none; set "
      "rollout.completions and a judge, see configs/rloo.py"
    )


@dataclasses.dataclass(frozen=True)
class _Extra:
  """The auxiliary loss before tokenization; `config.data` is its data."""

  config: object
  method: Method
  raw: examples.Raw


def _read_auxiliary(config) -> _Extra | None:
  method = auxiliary.method_of(config)
  if method is None:
    return None
  own = auxiliary.data_config(config)
  raw = examples.read(own, method, method.settings({}))[0]
  _enough(own, len(raw.groups), "aux.prompts")
  return _Extra(own, method, raw)


def _auxiliary(extra, mesh, tokenizer, numbers, steps):
  if extra is None:
    return None
  settings = extra.method.settings({})
  groups = examples.tokenize(extra.config, extra.raw, tokenizer)
  plan = _plan(extra.config, groups, mesh, steps, extra.config.seed + 1)
  seen = [groups.tokens[i] for i in np.unique(plan.order)]
  data = examples.finish(
    extra.config, extra.method, settings, numbers, groups, seen, "auxiliary"
  )
  objective = Objective(numbers.model, extra.method, settings)
  return auxiliary.Auxiliary(objective, extra.config.aux.coef, data, plan)


def _enough(config, count: int, key: str = "batch.prompts") -> None:
  if config.batch.prompts > count:
    raise data_error(
      f"{config.data.source}: {count} usable examples are fewer than "
      f"{key}={config.batch.prompts}; lower it to at most {count}"
    )


def _steps(config, count: int) -> int:
  _enough(config, count)
  steps = config.train.steps or planning.steps_of(
    config.train.epochs, count, config.batch.prompts
  )
  checks.check_steps(config, steps)
  return steps


def _plan(config, groups, mesh, steps, seed) -> planning.Plan:
  return planning.plan(
    planning.group_lengths(groups.tokens),
    prompts=config.batch.prompts,
    row_length=config.batch.row_length,
    steps=steps,
    microbatches=config.batch.microbatches,
    row_multiple=mesh.shape["data"] * mesh.shape["fsdp"],
    seed=seed,
    ids=[g.id for g in groups.tokens],
  )


def init_state(job: Job) -> TrainState:
  """The whole TrainState, every leaf sharded like its parameter."""
  boxed = jax.tree.map(
    lambda x, spec: nn.LogicallyPartitioned(x, names=tuple(spec)),
    parallel.abstract(job.start),
    job.logical,
  )
  names = moment_specs(jax.eval_shape(job.tx.init, boxed))
  params = parallel.put_params(job.mesh, job.start, job.logical)
  init = jax.jit(job.tx.init, out_shardings=parallel.shardings(job.mesh, names))
  one = parallel.replicated(job.mesh)
  make = job.objective.method.init_state
  method_state = make(job.objective.settings) if make else None
  scalar = lambda: jax.device_put(jnp.zeros((), jnp.int32), one)
  ema = None
  if job.online and job.config.rollout.opponent == "ema":
    ema = jax.tree.map(jnp.copy, params["policy"])
  key = jax.random.fold_in(jax.random.key(job.config.seed), 3)
  return TrainState(
    step=scalar(),
    params=params,
    opt_state=init(params),
    key=jax.device_put(key, one),
    method_state=jax.device_put(method_state, one),
    skipped=scalar(),
    ema_params=ema,
  )


def moment_specs(boxed: PyTree) -> PyTree:
  """A moment is sharded like its parameter, or replicated if it is factored."""

  def spec(leaf):
    if not isinstance(leaf, nn.LogicallyPartitioned):
      return PartitionSpec()
    whole = len(leaf.names) == leaf.value.ndim
    return PartitionSpec(*leaf.names if whole else ())

  is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)
  return jax.tree.map(spec, boxed, is_leaf=is_box)


def _carried(group) -> list:
  """A group's own numbers a token, as lists that can be printed."""
  return [(k, *(x.tolist() for x in v)) for k, v in group.columns.items()]


def fingerprints(job: Job) -> dict[str, str]:
  """Short hashes of what a run follows from, see `resume.FINGERPRINTS`."""
  groups = job.train.groups + (job.aux.data.groups if job.aux else [])
  short = lambda text: hashlib.sha256(text.encode()).hexdigest()[:16]
  feedback = str([(g.feedback, *_carried(g)) for g in groups])
  orders = [job.plan.order] + ([job.aux.plan.order] if job.aux else [])
  template = [job.config.data.template, job.tokenizer.chat_template]
  return job.weights | {
    "data": short(states.tokens_fingerprint(groups) + feedback),
    "order": states.fingerprint(orders)[:16],
    "template": short(str(template)),
    "tokenizer": job.tokenizer.fingerprint()[:16],
  }
