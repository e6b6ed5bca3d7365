"""The real train step of a config with shapes in the place of arrays."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from xpo_jax import config as config_lib
from xpo_jax import job as jobs
from xpo_jax import methods, parallel, placement
from xpo_jax.data.planning import Shape
from xpo_jax.errors import usage_error
from xpo_jax.models import heads
from xpo_jax.models import model as lm
from xpo_jax.models.architecture import TransformerConfig
from xpo_jax.models.model import Model
from xpo_jax.models.presets import PRESETS
from xpo_jax.models.weights.load import load_weights
from xpo_jax.optimizer import make_optimizer, make_schedule
from xpo_jax.step import Objective
from xpo_jax.trio import Frozen
from xpo_jax.types import Array, Batch, PyTree, TrainState


@dataclasses.dataclass(frozen=True)
class Program:
  """What `train` would compile: the step's parts and its abstract arguments."""

  mesh: jax.sharding.Mesh
  objective: Objective
  tx: object
  schedule: object
  state: TrainState
  frozen: Frozen
  batch: Batch
  shape: Shape
  live_reference: bool  # it runs in every step


def program(config, devices) -> Program:
  """The step that `xpo train` runs under `config` on `devices`.

  Rows are full: every prompt and completion has the longest length that the
  config allows.

  Raises:
    XpoError: a config that `xpo train` refuses, a model without known sizes,
      or a group that does not fit into a row.
  """
  config_lib.validate(config, devices=len(devices))
  method = methods.get(config.method.name)
  keywords = {k: v for k, v in config.method.items() if k != "name"}
  settings = method.settings(keywords)
  mesh = parallel.make_mesh(
    *config_lib.mesh_shape(config, len(devices)), devices=devices
  )
  model = placement.make_model(config, Model(sizes(config.model.source)))
  parallel.check_divides(model.config, mesh)
  needs = method.needs(settings)
  params, logical, frozen = _weights(config, mesh, model, method, needs)
  steps = config.train.steps or 1000
  tx = make_optimizer(config.optimizer, steps)
  shape = _shape(config, method, mesh, needs)
  return Program(
    mesh=mesh,
    objective=Objective(model, method, settings),
    tx=tx,
    schedule=make_schedule(config.optimizer, steps),
    state=_state(mesh, method, settings, tx, params, logical),
    frozen=frozen,
    batch=_batch(config, mesh, model, method, needs, shape),
    shape=shape,
    live_reference=placement.reference_is_live(config, needs),
  )


def sizes(source: str) -> TransformerConfig:
  """The sizes of a preset or of a source of weights; weights stay unread.

  Raises:
    XpoError: neither.
  """
  preset = PRESETS.get(source)
  if preset is not None and preset.config is not None:
    return preset.config
  return TransformerConfig(**load_weights(source).config_kwargs)


def _of(tree: PyTree, logical: PyTree, mesh, dtype=None) -> PyTree:
  """Shapes with the shardings that their logical axes say."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype, sharding=s),
    tree,
    parallel.shardings(mesh, logical),
  )


def _weights(config, mesh, model, method, needs):
  """(trainable, its logical axes, Frozen), all abstract."""
  key = jax.random.key(0)
  whole = jax.eval_shape(lambda: nn.unbox(lm.init(model, key)))
  names = lm.specs(model)
  trunk, top = jax.eval_shape(lambda p: lm.split(p, model.trunk_blocks), whole)
  pick = lambda tree: {k: names[k] for k in tree}
  if model.lora[0]:
    boxed = jax.eval_shape(lambda: lm.init_lora(model, key))
    policy = {"lora": nn.unbox(boxed)}
    logical = {"lora": nn.get_partition_spec(boxed)}
  else:
    policy, logical = {"top": top}, {"top": pick(top)}
  head = jax.eval_shape(lambda: heads.init_reward_head(key, model.config.width))
  bare = jax.tree.map(lambda _: PartitionSpec(), head)
  if method.trains_reward:
    policy, logical = (
      {**policy, "reward_head": head},
      {
        **logical,
        "reward_head": bare,
      },
    )
  params, axes = {"policy": policy}, {"policy": logical}
  if "values" in needs:
    params["value"] = {**policy, "head": head}
    axes["value"] = {**logical, "head": bare}
  held = lambda tree: lm.compact(tree, model.dtype)
  put = lambda tree: _of(jax.eval_shape(held, tree), pick(tree), mesh)
  live = placement.reference_is_live(config, needs)
  lora = bool(model.lora[0])
  frozen = Frozen(
    trunk=put(trunk) if trunk else {},
    top=put(top) if lora else None,
    reference=put(top) if live and not lora else None,
  )
  return _of(params, axes, mesh), axes, frozen


def _state(mesh, method, settings, tx, params, logical) -> TrainState:
  boxed = jax.tree.map(
    lambda x, spec: nn.LogicallyPartitioned(
      jax.ShapeDtypeStruct(x.shape, x.dtype), names=tuple(spec)
    ),
    params,
    logical,
  )
  shapes = jax.eval_shape(tx.init, boxed)
  specs = jobs.moment_specs(shapes)
  one = parallel.replicated(mesh)
  scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=one)
  key = jax.eval_shape(lambda: jax.random.key(0))
  put = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one)
  method_state = None
  if method.init_state is not None:
    made = jax.eval_shape(lambda: method.init_state(settings))
    method_state = jax.tree.map(put, made)
  return TrainState(
    step=scalar,
    params=params,
    opt_state=_of(nn.unbox(shapes), specs, mesh),
    key=put(key),
    method_state=method_state,
    skipped=scalar,
  )


def _shape(config, method, mesh, needs) -> Shape:
  """Full rows: as many whole groups a row as fit."""
  data, batch = config.data, config.batch
  low = method.completions[0]
  count = max(low, 2) if "mismatched_completion" in needs else low
  longest = data.max_completion_length
  group = data.max_prompt_length + count * longest
  if group > batch.row_length:
    raise usage_error(
      f"batch.row_length={batch.row_length} does not hold a prompt and its "
      f"{count} completions of the longest length ({group} tokens); raise it"
    )
  prompts = batch.prompts // batch.microbatches
  a_row = batch.row_length // group
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  rows = math.ceil(math.ceil(prompts / a_row) / parts) * parts
  return Shape(
    prompts=prompts,
    completions=count,
    tokens=longest,
    rows=rows,
    row_length=batch.row_length,
    targets=min(a_row, math.ceil(prompts / rows)) * count * longest,
  )


def _batch(config, mesh, model, method, needs, shape: Shape) -> Batch:
  sharding = NamedSharding(mesh, PartitionSpec(None, *parallel.ROWS))
  count = config.batch.microbatches

  def make(*sizes, dtype=jnp.int32) -> Array:
    return jax.ShapeDtypeStruct((count, *sizes), dtype, sharding=sharding)

  row, target = (shape.rows, shape.row_length), (shape.rows, shape.targets)
  pair = (shape.prompts, shape.completions)
  columns = {}
  cached = "reference_logps" in needs
  if cached and not placement.reference_is_live(config, needs):
    columns["reference_logps"] = make(*pair, shape.tokens, dtype=jnp.float32)
  for name in ("sampler_logps", "old_values", "advantages", "token_feedback"):
    if name in needs:
      columns[name] = make(*pair, shape.tokens, dtype=jnp.float32)
  trunk = None
  if model.trunk_blocks:
    trunk = make(*row, model.config.width, dtype=jnp.float32)
  names = ("tokens", "positions", "group", "branch")
  at = ("target_token", "target_place", "token_place", "target_slot")
  return Batch(
    **{name: make(*row) for name in names},
    **{name: make(*target) for name in at},
    completion_mask=make(*pair, shape.tokens, dtype=bool),
    present=make(*pair, dtype=bool),
    ended=make(*pair, dtype=bool),
    feedback=make(*pair, dtype=jnp.float32),
    weight=make(shape.prompts, dtype=jnp.float32),
    columns=columns,
    trunk=trunk,
    feedback_kind=min(method.feedback, key=lambda f: f.name),
  )
