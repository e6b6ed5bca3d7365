"""Where a run's weights come from and which of them move.

A config decides the split into trainable parameters (all weights, the last
blocks, or LoRA factors, plus a reward head) and frozen ones.
"""

import dataclasses

import flax.linen as nn
import jax
import numpy as np

from xpo_jax import checks, parallel, pretrained, run_folder, stored
from xpo_jax.errors import usage_error
from xpo_jax.methods.registry import Method
from xpo_jax.models import heads, states
from xpo_jax.models import model as lm
from xpo_jax.models.model import Model, Weights
from xpo_jax.models.presets import SIZES
from xpo_jax.models.weights.tokenizer import train_bpe
from xpo_jax.pretrained import Pretrained
from xpo_jax.trio import Frozen
from xpo_jax.types import PyTree

TINY_VOCABULARY = 2048


def load_policy(config, texts) -> Pretrained:
  """The policy's start; the tiny preset learns its own BPE from `texts`.

  Raises:
    XpoError: a source that cannot be loaded, or only sizes to compile for.
  """
  if config.model.source in SIZES:
    raise usage_error(
      f"model.source={config.model.source!r} names sizes for `xpo compile`; "
      "set it to a folder of such weights to train"
    )
  if config.model.source != "tiny":
    found = pretrained.load_pretrained(
      config.model.source, config.model.dtype, unread=True
    )
    return _dated(found, config.data.template_date)
  tokenizer = train_bpe(texts, TINY_VOCABULARY)
  tiny = pretrained.load_weights("tiny").config_kwargs
  sizes = pretrained.TransformerConfig(
    **{**tiny, "vocab_size": tokenizer.vocab_size}
  )
  model = Model(sizes, dtype=config.model.dtype)
  params = pretrained.random_params(model, config.seed)
  found = Pretrained(model, params, tokenizer)
  return _dated(found, config.data.template_date)


def _dated(found: Pretrained, date: str) -> Pretrained:
  """With the date that the chat template is to write."""
  if not date or found.tokenizer is None:
    return found
  tokenizer = dataclasses.replace(found.tokenizer, template_date=date)
  return dataclasses.replace(found, tokenizer=tokenizer)


def make_model(config, base: Model) -> Model:
  """Adds the trunk and LoRA settings of the config to a loaded model."""
  trained, layers = config.model.trained_blocks, base.config.layers
  checks.check_model(config, layers=layers, context=base.config.max_length)
  rank = config.lora.rank
  alpha = config.lora.alpha or 2.0 * rank
  return dataclasses.replace(
    base,
    trunk_blocks=layers - trained if trained else 0,
    lora=(rank, alpha / rank if rank else 1.0),
    dtype=config.model.dtype,
  )


@dataclasses.dataclass(frozen=True)
class Parts:
  """Host parameters by what happens to them."""

  trainable: PyTree  # {"policy": {"top" | "lora", "reward_head"?}}
  logical: PyTree  # their logical axes
  trunk: PyTree  # frozen first blocks, {} without
  top: PyTree  # the start of the rest; frozen under LoRA
  base: Pretrained  # what they were split from


def start_params(
  config, model: Model, base: Pretrained, method: Method, settings: dict
) -> Parts:
  """Splits the loaded weights; adds LoRA factors, reward head, value model."""
  names, empty = lm.specs(model), jax.sharding.PartitionSpec()
  trunk, top = lm.split(base.params, model.trunk_blocks)
  if model.lora[0]:
    make = jax.jit(lambda key: lm.init_lora(model, key))
    tree = make(jax.random.fold_in(jax.random.key(config.seed), 1))
    policy = {"lora": jax.tree.map(np.asarray, nn.unbox(tree))}
    logical = {"lora": nn.get_partition_spec(tree)}
  else:
    policy, logical = {"top": top}, {"top": {k: names[k] for k in top}}
  if method.trains_reward:
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    head = base.reward_head or _host_head(key, model)
    policy["reward_head"] = jax.tree.map(np.asarray, head)
    logical["reward_head"] = jax.tree.map(lambda _: empty, head)
  trainable, names = {"policy": policy}, {"policy": logical}
  if "values" in method.needs(settings):
    value = _value_start(config, model, policy, trunk, top, base)
    trainable["value"] = value
    own = {k: v for k, v in logical.items() if k != "reward_head"}
    of_head = jax.tree.map(lambda _: empty, value["head"])
    names["value"] = {**own, "head": of_head}
  return Parts(trainable, names, trunk, top, base)


def _value_start(
  config, model: Model, policy: PyTree, trunk: PyTree, top: PyTree, base
) -> PyTree:
  """The value model: the policy with a new head, or a reward model's own.

  Raises:
    XpoError: rollout.value_source is no reward model over the same trunk.
  """
  source = config.rollout.value_source
  if not source:
    key = jax.random.fold_in(jax.random.key(config.seed), 4)
    return {**policy, "head": _host_head(key, model)}
  if model.lora[0]:
    return _value_factors(source, model, trunk, top)
  found = pretrained.load_pretrained(source, config.model.dtype)
  if found.reward_head is None:
    raise usage_error(
      f"rollout.value_source={source!r} has no reward head; name a run of "
      "rm_bt, rm_kwise or another reward model"
    )
  own = _same_trunk("rollout.value_source", source, found, model, trunk, base)
  head = jax.tree.map(np.asarray, found.reward_head)
  return {"top": own, "head": head}


def _value_factors(source: str, model: Model, trunk: PyTree, top: PyTree):
  """A reward model's factors and head, over the base that the policy has."""
  refused = usage_error(
    f"rollout.value_source={source!r}: under LoRA it must be a reward model "
    f"trained with lora.rank={model.lora[0]} from the policy's own start; "
    "train it so, or leave it empty"
  )
  if not (stored.split_source(source)[0] / "model.json").is_file():
    raise refused
  found = run_folder.read(source, model.dtype)
  base = states.base_fingerprint(trunk, top)
  run, _ = stored.split_source(source)
  saved = (stored.read_meta(run, found.step) or {}).get("fingerprints", {})
  same = found.model.lora == model.lora and saved.get("base") == base
  if not same or not {"lora", "reward_head"} <= set(found.policy):
    raise refused
  return {"lora": found.policy["lora"], "head": found.policy["reward_head"]}


def _host_head(key, model: Model) -> PyTree:
  return jax.tree.map(
    np.asarray, heads.init_reward_head(key, model.config.width)
  )


def make_frozen(
  config, mesh, model: Model, parts: Parts, needs: frozenset[str]
) -> tuple[Frozen, PyTree]:
  """(frozen weights on the mesh, the reference's top on the host).

  Args:
    config: a whole tree.
    mesh: where they go.
    model: sizes.
    parts: the start.
    needs: what the method and the auxiliary losses need.

  Raises:
    XpoError: a reference of another architecture or trunk, or one that LoRA
      cannot have live.
  """
  names = lm.specs(model)
  put = lambda tree: parallel.put_params(
    mesh, lm.compact(tree, model.dtype), {k: names[k] for k in tree}
  )
  reference, lora = parts.top, bool(model.lora[0])
  live = reference_is_live(config, needs)
  if config.reference.source:
    if live and lora:
      raise usage_error(
        "reference.mode=live: under LoRA the live reference is the base; with "
        "reference.source use reference.mode=cached"
      )
    reference = _other_reference(config, model, parts)
  frozen = Frozen(
    trunk=put(parts.trunk),
    top=put(parts.top) if lora else None,
    reference=put(reference) if live and not lora else None,
  )
  return frozen, reference


def reference_is_live(config, needs: frozenset[str]) -> bool:
  """Whether the reference runs in every step."""
  # Full distributions are never cached.
  whole = any(n.startswith("token_kl") for n in needs)
  # Samples of the policy are new at every rollout: nothing could be cached.
  online = config.rollout.completions > 0
  asked = (config.reference.mode == "live" or online) and (
    "reference_logps" in needs
  )
  drawn = config.rollout.opponent in ("reference", "mixture")
  return whole or asked or drawn


def devices_of(mesh, model: Model) -> states.Devices:
  """The mesh for frozen numbers: each device holds its part of the weights."""
  if mesh.size == 1:
    return states.ONE
  names, last = lm.specs(model), [None, None]
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  pick = lambda tree: {k: names[k] for k in tree}

  def weights(tree):
    leaves = tuple(map(id, jax.tree.leaves(tree)))
    if last[0] != leaves:
      if isinstance(tree, Weights):
        logical = Weights(pick(tree.trunk), pick(tree.top))
      else:
        logical = pick(tree)
      held = lm.compact(tree, model.dtype)
      last[:] = [leaves, parallel.put_params(mesh, held, logical)]
    return last[1]

  return states.Devices(
    rows=-(-states.CHUNK_ROWS // parts) * parts,
    key=tuple(mesh.shape.items()),
    use=lambda: parallel.use(mesh),
    weights=weights,
    batch=lambda tree: parallel.put_rows(mesh, tree),
    result=parallel.to_host,
    agree=parallel.all_agree,
  )


def fingerprints(
  model: Model, parts: Parts, reference: PyTree, needs: frozenset[str]
) -> dict[str, str]:
  """Hashes of the weights that a run folder does not hold; "" for none.

  base: what `pretrained` loads again to make the trained model whole.
  reference: what the loss compares with.
  """
  compared = any(n.startswith(("reference", "token_kl")) for n in needs)
  return {
    "base": states.base_fingerprint(
      parts.trunk, parts.top if model.lora[0] else {}
    ),
    "reference": states.fingerprint(reference)[:16] if compared else "",
  }


def _other_reference(config, model: Model, parts: Parts) -> PyTree:
  """The top of reference.source, whose trunk must be the policy's."""
  source = config.reference.source
  other = pretrained.load_pretrained(source, config.model.dtype, unread=True)
  return _same_trunk(
    "reference.source", source, other, model, parts.trunk, parts.base
  )


def _same_trunk(
  key: str, source: str, other: Pretrained, model, trunk, base: Pretrained
):
  """The top of a model whose frozen blocks and tokens are the policy's."""
  if other.model.config != model.config:
    raise usage_error(
      f"{key}={source!r}: another architecture than the policy's; use a "
      "checkpoint of the same model"
    )
  pair = [m.tokenizer and m.tokenizer.fingerprint() for m in (base, other)]
  if all(pair) and pair[0] != pair[1]:
    raise usage_error(
      f"{key}={source!r}: another tokenizer than the policy's, its ids mean "
      "other texts; use a checkpoint of the same model"
    )
  other_trunk, top = lm.split(other.params, model.trunk_blocks)
  if states.fingerprint(other_trunk) != states.fingerprint(trunk):
    raise usage_error(
      f"{key}={source!r}: its frozen blocks differ from the policy's; set "
      "model.trained_blocks=0"
    )
  return top
