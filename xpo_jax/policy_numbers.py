"""Numbers of samples from models: rewards, log-probs, distances.

Models that share their frozen first blocks share the states behind these.
"""

from collections.abc import Sequence
import dataclasses
from pathlib import Path

import numpy as np

from xpo_jax import fetch, parallel, placement, progress
from xpo_jax.evals import diversity
from xpo_jax.models import model as lm
from xpo_jax.models import states
from xpo_jax.models.model import Model, Weights
from xpo_jax.pretrained import Pretrained

ENTROPY = "sequence entropy"  # -log p of its own samples, nats


@dataclasses.dataclass(frozen=True)
class Split:
  """A model with its frozen first blocks apart."""

  model: Model
  trunk: object
  top: object
  reward_head: object | None


def split_shared(models: dict[str, Pretrained], blocks: int) -> dict:
  """Splits all models after `blocks` blocks if they share these, else at 0."""
  parts = {k: lm.split(m.params, blocks) for k, m in models.items()}
  prints = {states.fingerprint(trunk) for trunk, _ in parts.values()}
  if len(prints) > 1:
    blocks = 0
    parts = {k: lm.split(m.params, 0) for k, m in models.items()}
  return {
    k: Split(
      dataclasses.replace(models[k].model, trunk_blocks=blocks),
      *parts[k],
      models[k].reward_head,
    )
    for k in models
  }


def _logps(split: Split, groups, trunk, name: str) -> list[np.ndarray]:
  """Token log-probs of every completion, in order."""
  look_up = states.reference_logps(
    split.model,
    Weights(split.trunk, split.top),
    groups,
    _cache(),
    trunk,
    progress.tracked(name),
    _devices(split),
  )
  return [x for g in groups for x in look_up(g)]


def _devices(split: Split) -> states.Devices:
  mesh = parallel.all_devices(split.model.config)
  return placement.devices_of(mesh, split.model)


def _rewards(split: Split, groups, trunk, name: str) -> np.ndarray:
  """The reward head at every completion's last token, [N]; NaN if empty."""
  look_up = states.reward_scores(
    split.model,
    Weights(split.trunk, split.top),
    split.reward_head,
    groups,
    _cache(),
    trunk,
    progress.tracked(name),
    _devices(split),
  )
  found = [x for g in groups for x in look_up(g)]
  return np.array([x[-1] if len(x) else np.nan for x in found])


def _cache() -> Path:
  return fetch.cache_folder() / "states"


def divergence(policy: list, reference: list) -> tuple[np.ndarray, np.ndarray]:
  """KL(policy || reference) of each sampled sequence by k1 and by k3, nats.

  k1 = sum_t d_t, k3 = sum_t exp(-d_t) - 1 + d_t, d = log pi - log ref, the
  exponent clamped at 20 (methods.md 0.6). Samples at a temperature other than 1
  are not the policy's own: read both as a distance then, not as the KL.
  """
  gaps = [np.asarray(p - r) for p, r in zip(policy, reference, strict=True)]
  k1 = np.array([np.sum(d) for d in gaps])
  k3 = np.array([np.sum(np.exp(np.clip(-d, -20, 20)) - 1 + d) for d in gaps])
  return k1, k3


def scores(
  rewards: Sequence[str], reference: str, splits: dict, name: str, groups
) -> dict[str, np.ndarray]:
  """Measure -> [samples]: rewards, KL, sequence entropy, EOS of one policy.

  Args:
    rewards: names of reward models.
    reference: name of a policy; "" for no KL.
    splits: of `split_shared`, "policy NAME" and "reward NAME".
    name: of the policy.
    groups: its samples.
  """
  own, trunk = splits[f"policy {name}"], None
  if own.model.trunk_blocks:
    trunk = states.trunk_states(
      own.model,
      own.trunk,
      groups,
      _cache(),
      progress.tracked(f"trunk states, {name}"),
      _devices(own),
    )
  found = {
    judge: _rewards(
      splits[f"reward {judge}"], groups, trunk, f"{judge} of {name}"
    )
    for judge in rewards
  }
  logps = _logps(own, groups, trunk, f"log-probs, {name}")
  if reference:
    other = splits[f"policy {reference}"]
    held = _logps(other, groups, trunk, f"log-probs, {name} by {reference}")
    k1, k3 = divergence(logps, held)
    found[f"KL to {reference}, k1"] = k1
    found[f"KL to {reference}, k3"] = k3
  found[ENTROPY] = diversity.sequence_entropy(logps)
  found["ended with EOS"] = np.array(
    [float(e) for g in groups for e in g.ended]
  )
  return found
