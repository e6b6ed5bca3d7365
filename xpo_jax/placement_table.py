"""What a device holds, by model: printed before a run's first step."""

from collections.abc import Mapping

import jax

from xpo_jax import progress
from xpo_jax.trio import Frozen
from xpo_jax.types import PyTree, TrainState


def device_bytes(tree: PyTree) -> int:
  """Bytes of the arrays of `tree` on one device, the fullest of this host."""
  held: dict[object, int] = {}
  for leaf in jax.tree.leaves(tree):
    if isinstance(leaf, jax.Array):
      for shard in leaf.addressable_shards:
        old = held.get(shard.device, 0)
        held[shard.device] = old + shard.data.nbytes
  return max(held.values(), default=0)


def models(state: TrainState, frozen: Frozen) -> dict[str, PyTree]:
  """What a run keeps on the devices, by name."""
  return {
    "policy": state.params["policy"],
    "value": state.params.get("value"),
    "moving average": state.ema_params,
    "optimizer": state.opt_state,
    "frozen blocks": frozen.trunk,
    "base (under LoRA)": frozen.top,
    "reference": frozen.reference,
  }


def rows(models: Mapping[str, PyTree]) -> list[tuple[str, str, str]]:
  """(model, numbers, MB a device) of those that hold anything."""
  return [
    (name, f"{_count(tree):,}", f"{device_bytes(tree) / 1e6:,.1f}")
    for name, tree in models.items()
    if jax.tree.leaves(tree)
  ]


def show(models: Mapping[str, PyTree]) -> None:
  progress.print_table(
    "on the devices", ("model", "numbers", "MB a device"), rows(models)
  )


def _count(tree: PyTree) -> int:
  return sum(x.size for x in jax.tree.leaves(tree) if isinstance(x, jax.Array))
