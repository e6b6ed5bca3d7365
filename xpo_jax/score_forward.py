"""The packed forward behind `xpo score`: policy and reference over one batch.

A prompt is computed once for its completions, and frozen first blocks once for
both models.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools

import jax
import numpy as np

from xpo_jax import checks, implicit, parallel, placement, pretrained, trio
from xpo_jax.data import loader
from xpo_jax.data.records import TokenGroup
from xpo_jax.errors import XpoError, checkpoint_error
from xpo_jax.methods.registry import Method
from xpo_jax.models import model as lm
from xpo_jax.models import states
from xpo_jax.models.model import Model
from xpo_jax.models.weights.tokenizer import Tokenizer
from xpo_jax.trio import Frozen
from xpo_jax.types import Array, Batch, PyTree


@dataclasses.dataclass(frozen=True)
class Scorer:
  """Weights on the mesh and the compiled function over them."""

  mesh: jax.sharding.Mesh
  row_length: int
  params: PyTree  # {"policy": {"top", "reward_head"?}}
  frozen: Frozen
  score_batch: Callable

  def batches(
    self, groups: list[TokenGroup], prompts: int
  ) -> Iterator[list[tuple[int, dict[str, np.ndarray]]]]:
    """Lists of (place of the group, its numbers), in order.

    Args:
      groups: of one kind of feedback.
      prompts: a batch; rounded up to what the mesh divides.

    Returns:
      numbers: rewards [K]; credits, logps and reference_logps [K, T], as far as
      the reward has them; K and T are those of the batch, padding is 0.
    """
    multiple = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
    prompts = min(prompts, len(groups))
    prompts += -prompts % multiple
    with parallel.use(self.mesh):
      for index, batch in loader.batches_in_order(
        groups,
        groups[0].kind,
        prompts=prompts,
        row_length=self.row_length,
        row_multiple=multiple,
      ):
        batch = parallel.put_batch(self.mesh, batch)
        found = self.score_batch(self.params, self.frozen, batch)
        host = {k: parallel.to_host(v) for k, v in found.items()}
        yield [
          (int(n), {k: v[slot] for k, v in host.items()})
          for slot, n in enumerate(index)
          if n >= 0
        ]


def make_score(
  model: Model, method: Method, reward: implicit.Reward
) -> Callable[[PyTree, Frozen, Batch], dict[str, Array]]:
  """(params, frozen, batch [1, ...]) -> numbers [B, K(, T)]; jit it.

  Args:
    model: sizes; its frozen blocks run once for policy and reference.
    method: of the run; it fills what the reward needs and no more.
    reward: of `implicit.define`.
  """
  asked = dataclasses.replace(method, needs_of=lambda _: reward.needs)

  def score_batch(params, frozen, batch):
    batch = jax.tree.map(lambda a: a[0], batch)
    x = trio.score(model, asked, {}, params, frozen, batch, train=False)
    rewards, credits = reward(x)
    found = {
      "rewards": rewards,
      "credits": credits,
      "logps": x.policy_logps,
      "reference_logps": x.reference_logps,
    }
    return {name: a for name, a in found.items() if a is not None}

  return score_batch


def load(
  source: str,
  config,
  method: Method,
  reward: implicit.Reward,
  tokenizer: Tokenizer,
) -> Scorer:
  """A run's weights, and its reference if the reward has one.

  LoRA factors are merged; the mesh is the run's where it fits the devices here,
  else that of `parallel.all_devices`.

  Args:
    source: RUN@STEP.
    config: of the run.
    method: of the run.
    reward: of `implicit.define`.
    tokenizer: of the run.

  Raises:
    XpoError: weights that are gone, or are no longer those of the run.
  """
  policy = pretrained.load_pretrained(source, config.model.dtype)
  model = placement.make_model(config, policy.model)
  model = dataclasses.replace(model, lora=(0, 1.0))
  mesh = _mesh(config, model)
  parallel.check_divides(model.config, mesh)
  names = lm.specs(model)
  put = lambda tree: parallel.put_params(
    mesh, tree, {k: names[k] for k in tree}
  )
  trunk, top = lm.split(policy.params, model.trunk_blocks)
  params = {"policy": {"top": put(top)}}
  if policy.reward_head is not None:
    one = parallel.replicated(mesh)
    params["policy"]["reward_head"] = jax.device_put(policy.reward_head, one)
  reference = None
  if reward.reference:
    reference = put(_reference_top(config, model, trunk, tokenizer))
  return Scorer(
    mesh,
    config.batch.row_length,
    params,
    Frozen(trunk=put(trunk), reference=reference),
    jax.jit(make_score(model, method, reward)),
  )


def _mesh(config, model: Model) -> jax.sharding.Mesh:
  devices = jax.devices()
  try:
    shape = checks.fill_mesh(config.mesh, len(devices))
  except XpoError:  # trained on other devices
    return parallel.all_devices(model.config)
  return parallel.make_mesh(*shape, devices=devices)


def _reference_top(config, model: Model, trunk, tokenizer) -> PyTree:
  """The top of what the run was held to: its start, or reference.source."""
  key = "reference.source" if config.reference.source else "model.source"
  source = config.reference.source or config.model.source
  if (key, source) == ("model.source", "tiny"):
    whole = pretrained.random_params(model, config.seed)
    return lm.split(whole, model.trunk_blocks)[1]
  other = pretrained.load_pretrained(source, config.model.dtype)
  refuse = functools.partial(_refuse, f"{key}={source!r}")
  if other.model.config != model.config:
    raise refuse("another architecture")
  own = other.tokenizer
  if own is not None and own.fingerprint() != tokenizer.fingerprint():
    raise refuse("another tokenizer")
  other_trunk, top = lm.split(other.params, model.trunk_blocks)
  # The run's own frozen blocks come from model.source.
  if config.reference.source and (
    states.fingerprint(other_trunk) != states.fingerprint(trunk)
  ):
    raise refuse("other frozen blocks")
  return top


def _refuse(where: str, what: str) -> XpoError:
  return checkpoint_error(
    f"{where} now has {what} than the run's; bring back the weights that it "
    "was trained against"
  )
