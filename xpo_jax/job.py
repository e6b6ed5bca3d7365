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
import numpy as np
import optax

from xpo_jax import config as config_lib
from xpo_jax import fetch, methods, parallel, pretrained, progress
from xpo_jax.data import convert, load, planning, templates
from xpo_jax.data.records import Account, TokenGroup
from xpo_jax.errors import data_error, usage_error
from xpo_jax.methods.registry import Method
from xpo_jax.models import heads, states
from xpo_jax.models import model as lm
from xpo_jax.models.model import Model, Weights
from xpo_jax.models.weights.tokenizer import Tokenizer, train_bpe
from xpo_jax.optimizer import make_optimizer, make_schedule
from xpo_jax.pretrained import Pretrained
from xpo_jax.step import Objective, make_evaluate
from xpo_jax.trio import Frozen
from xpo_jax.types import Feedback, PyTree, TrainState

TINY_VOCABULARY = 2048


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Token groups of one split, their account and their frozen numbers."""

  groups: list[TokenGroup]
  account: Account
  kind: Feedback
  columns: dict
  trunk: object | None  # lookup group -> states

  def __len__(self):
    return len(self.groups)


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
  train: Dataset
  evaluation: Dataset | None
  plan: planning.Plan
  steps: int
  tx: optax.GradientTransformation
  schedule: optax.Schedule

  @functools.cached_property
  def evaluate(self):
    """The jitted evaluation of one batch, compiled once a run."""
    return jax.jit(make_evaluate(self.objective))


def read_groups(config, method: Method, settings: dict, evaluation: bool):
  """Files -> groups of a kind that the method takes."""
  groups, account = load.load(config.data, evaluation, seed=config.seed)
  before = len(groups)
  groups = convert.convert(
    groups,
    method.feedback,
    method.completions,
    mismatched="mismatched_completion" in method.needs(settings),
    seed=config.seed,
  )
  if len(groups) != before:
    account.notes["rows after conversion"] = len(groups)
    account.read += len(groups) - before
    account.used += len(groups) - before
  return groups, account


def tokenize(config, groups, account, tokenizer):
  """Groups -> token groups, with one account over both stages."""
  tokens, later = templates.tokenize(
    groups,
    tokenizer,
    config.data.template,
    config.data.max_prompt_length,
    config.data.max_completion_length,
    config.data.overlong_prompt,
    config.data.on_bad_row,
  )
  return tokens, account.then(later)


def load_policy(config, texts) -> Pretrained:
  """The policy's start; the tiny preset learns its own BPE from `texts`."""
  if config.model.source != "tiny":
    return pretrained.load_pretrained(config.model.source, config.model.dtype)
  tokenizer = train_bpe(texts, TINY_VOCABULARY)
  tiny = pretrained.load_weights("tiny").config_kwargs
  sizes = pretrained.TransformerConfig(
    **{**tiny, "vocab_size": tokenizer.vocab_size}
  )
  model = Model(sizes, dtype=config.model.dtype)
  params = pretrained.random_params(model, config.seed)
  return Pretrained(model, params, tokenizer)


def make_model(config, base: Model) -> Model:
  """Adds the trunk and LoRA settings of the config to a loaded model."""
  trained, layers = config.model.trained_blocks, base.config.layers
  if trained > layers:
    raise usage_error(
      f"model.trained_blocks={trained}: the model has {layers} blocks; use 0 "
      "to train all weights"
    )
  context = base.config.max_length
  longest = config.data.max_prompt_length + config.data.max_completion_length
  if config.model.max_length > context:
    raise usage_error(
      f"model.max_length={config.model.max_length} exceeds the model's "
      f"{context}; lower it or use 0"
    )
  limit = config.model.max_length or context
  if longest > limit:
    raise usage_error(
      f"data.max_prompt_length + data.max_completion_length = {longest} exceed "
      f"the context of {limit} tokens; lower one of them"
    )
  rank = config.lora.rank
  alpha = config.lora.alpha or 2.0 * rank
  return dataclasses.replace(
    base,
    trunk_blocks=layers - trained if trained else 0,
    lora=(rank, alpha / rank if rank else 1.0),
    dtype=config.model.dtype,
  )


def start_params(config, model: Model, base: Pretrained, method: Method):
  """(trainable, logical axes, frozen trunk, frozen top)."""
  names = lm.specs(model)
  trunk, top = lm.split(base.params, model.trunk_blocks)
  top_names = names
  if model.trunk_blocks:
    top_names = {k: names[k] for k in top}
  if model.lora[0]:
    boxed = jax.jit(lambda key: lm.init_lora(model, key))
    tree = boxed(jax.random.fold_in(jax.random.key(config.seed), 1))
    policy = {"lora": jax.tree.map(np.asarray, nn.unbox(tree))}
    logical = {"lora": nn.get_partition_spec(tree)}
  else:
    policy, logical = {"top": top}, {"top": top_names}
  if method.trains_reward:
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    head = base.reward_head or heads.init_reward_head(key, model.config.width)
    policy["reward_head"] = jax.tree.map(np.asarray, head)
    empty = jax.sharding.PartitionSpec()
    logical["reward_head"] = jax.tree.map(lambda _: empty, head)
  return {"policy": policy}, {"policy": logical}, trunk, top


def make_frozen(config, mesh, model, trunk, top, method, settings, base):
  """Frozen weights on the mesh: trunk, LoRA's base, a live reference."""
  names = lm.specs(model)
  put = lambda tree: (
    parallel.put_params(mesh, tree, {k: names[k] for k in tree})
    if tree
    else tree
  )
  needs_reference = "reference_logps" in method.needs(settings)
  reference = None
  if needs_reference and config.reference.source:
    other = pretrained.load_pretrained(
      config.reference.source, config.model.dtype
    )
    if other.model.config != base.model.config:
      raise usage_error(
        f"reference.source={config.reference.source!r}: another architecture "
        "than the policy's; use a checkpoint of the same model"
      )
    other_trunk, reference = lm.split(other.params, model.trunk_blocks)
    if states.fingerprint(other_trunk) != states.fingerprint(trunk):
      raise usage_error(
        f"reference.source={config.reference.source!r}: its frozen blocks "
        "differ from the policy's; set model.trained_blocks=0"
      )
  live = needs_reference and config.reference.mode == "live"
  lora = bool(model.lora[0])
  host_reference = top if reference is None else reference
  if live and lora and reference is not None:
    raise usage_error(
      "reference.source with LoRA and reference.mode=live: the live reference "
      "of LoRA is the base; use reference.mode=cached"
    )
  frozen = Frozen(
    trunk=put(trunk),
    top=put(top) if lora else None,
    reference=put(host_reference) if live and not lora else None,
  )
  return frozen, host_reference


def _tracked(name: str):
  def track(iterator, total):
    with progress.track(total, name) as task:
      for item in iterator:
        yield item
        task.advance()

  return track


def with_frozen_numbers(
  config, model, trunk, reference, method, settings, groups, account, name
) -> Dataset:
  """Adds cached trunk states and reference log-probs to a split."""
  folder = fetch.cache_folder() / "states"
  states.clean(folder)
  look_up, columns = None, {}
  if model.trunk_blocks:
    look_up = states.trunk_states(
      model, trunk, groups, folder, _tracked(f"trunk states, {name}")
    )
  cached = config.reference.mode == "cached"
  if cached and "reference_logps" in method.needs(settings):
    base = dataclasses.replace(model, lora=(0, 1.0))
    columns["reference_logps"] = states.reference_logps(
      base,
      Weights(trunk, reference),
      groups,
      folder,
      look_up,
      _tracked(f"reference log-probs, {name}"),
    )
  kind = groups[0].kind if groups else next(iter(method.feedback))
  return Dataset(groups, account, kind, columns, look_up)


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
  sizes = config_lib.mesh_shape(config, len(devices))
  mesh = parallel.make_mesh(*sizes, devices=devices)
  raw, account = read_groups(config, method, settings, False)
  held_out, held_account = [], None
  if config.data.eval_source or config.data.source == "films":
    held_out, held_account = read_groups(config, method, settings, True)
    load.check_leak(raw, held_out)
  texts = [t for g in raw for t in (_text(g.prompt), *g.completions)]
  base = load_policy(config, texts)
  if base.tokenizer is None:
    raise usage_error(
      f"model.source={config.model.source!r} has no tokenizer; add "
      "tokenizer.json to the folder"
    )
  model = make_model(config, base.model)
  parallel.check_divides(model.config, mesh)
  groups, account = tokenize(config, raw, account, base.tokenizer)
  for warning in account.warnings:
    print(f"warning: {warning}")
  start, logical, trunk, top = start_params(config, model, base, method)
  frozen, reference = make_frozen(
    config, mesh, model, trunk, top, method, settings, base
  )
  finish = lambda groups, account, name: with_frozen_numbers(
    config, model, trunk, reference, method, settings, groups, account, name
  )
  steps = config.train.steps or planning.steps_of(
    config.train.epochs, len(groups), config.batch.prompts
  )
  if config.batch.prompts > len(groups):
    raise data_error(
      f"{config.data.source}: {len(groups)} usable rows are fewer than "
      f"batch.prompts={config.batch.prompts}; lower it to at most {len(groups)}"
    )
  plan = planning.plan(
    planning.group_lengths(groups),
    prompts=config.batch.prompts,
    row_length=config.batch.row_length,
    steps=steps,
    microbatches=config.batch.microbatches,
    row_multiple=sizes[0] * sizes[1],
    seed=config.seed,
    ids=[g.id for g in groups],
  )
  train = finish(groups, account, "train")
  evaluation = None
  if held_out:
    held, held_account = tokenize(
      config, held_out, held_account, base.tokenizer
    )
    evaluation = finish(held, held_account, "held-out")
  return Job(
    config=config,
    mesh=mesh,
    tokenizer=base.tokenizer,
    objective=Objective(model, method, settings),
    frozen=frozen,
    start=start,
    logical=logical,
    train=train,
    evaluation=evaluation,
    plan=plan,
    steps=steps,
    tx=make_optimizer(config.optimizer, steps),
    schedule=make_schedule(config.optimizer, steps),
  )


def _text(prompt) -> str:
  if isinstance(prompt, str):
    return prompt
  return "\n".join(m.content for m in prompt)


def init_state(job: Job) -> TrainState:
  """The whole TrainState, every leaf sharded like its parameter."""
  boxed = jax.tree.map(
    lambda x, spec: nn.LogicallyPartitioned(x, names=tuple(spec)),
    jax.eval_shape(lambda: jax.tree.map(jnp.asarray, job.start)),
    job.logical,
  )
  names = nn.get_partition_spec(jax.eval_shape(job.tx.init, boxed))
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


def fingerprints(job: Job) -> dict[str, str]:
  """Short content hashes that go into every checkpoint's metadata."""
  text = config_lib.to_json(job.config)
  return {
    "config": hashlib.sha256(text.encode()).hexdigest()[:16],
    "data": states.tokens_fingerprint(job.train.groups)[:16],
    "tokenizer": job.tokenizer.fingerprint()[:16],
  }
