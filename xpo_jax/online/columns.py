"""Frozen numbers of a rollout: log-probs, values, advantages.

Computed once, before the first step on its samples. Letters: P prompts, K
completions, T tokens.
"""

from collections.abc import Callable
import dataclasses

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from xpo_jax import ops, parallel, trio
from xpo_jax.data import packing
from xpo_jax.online.groups import Groups
from xpo_jax.rollout import agreement
from xpo_jax.step import Objective, flatten
from xpo_jax.types import LossInputs, PyTree

CARRIED = (
  "reference_logps",
  "sampler_logps",
  "old_values",
  "advantages",
  "token_feedback",
)
# Slots of a device from which on fewer rows are worth another program: chosen
# so that small runs compile one, not measured.
_WORTH = 2048


def make_score(objective: Objective) -> Callable[..., LossInputs]:
  """(params, frozen, batch [n, ...]) -> log-probs and values [n * B, K, T]."""
  model, settings = objective.model, objective.settings
  needs = objective.method.needs(settings) & {"reference_logps", "values"}
  needs |= objective.method.prepare_needs(settings)
  scored = dataclasses.replace(objective.method, needs_of=lambda _: needs)

  def score(params, frozen, batches):
    one = lambda batch: trio.score(
      model,
      scored,
      settings,
      params,
      frozen,
      batch,
      train=False,
      temperature=objective.temperature,
    )
    _, found = lax.scan(lambda _, b: (None, one(b)), None, batches)
    return flatten(found)

  return jax.jit(score)


def pack(job, groups: Groups, more: tuple[str, ...] = (), trunk=None):
  """One step's groups as microbatches [n, ...], with the columns `more`.

  `trunk` has the states [slots, D] of every group after the frozen blocks.

  The plan has room for samples that are all of the longest kind; most rows of
  most steps would be empty. So there are three numbers of rows, each a program
  of its own that is compiled once.
  """
  shape, kind = job.plan.shape, job.train.kind
  look_up = lambda name: lambda group: group.columns[name]
  size = shape.prompts
  parts = [groups[at : at + size] for at in range(0, len(groups), size)]
  devices = job.mesh.shape["data"] * job.mesh.shape["fsdp"]
  for rows in _row_numbers(shape, devices):
    fewer = dataclasses.replace(shape, rows=rows)
    if all(packing.fits(part, fewer) for part in parts):
      break
  found = trunk and {id(g): s for g, s in zip(groups, trunk, strict=True)}
  packed = [
    packing.pack(
      part,
      fewer,
      kind,
      columns={name: look_up(name) for name in more},
      trunk=trunk and (lambda group: found[id(group)]),
    )
    for part in parts
  ]
  if trunk:
    packed = [b if b.trunk is not None else _no_states(job, b) for b in packed]
  return packing.stack(packed)


def _no_states(job, batch):
  """Of a microbatch without a group."""
  width = job.objective.model.config.width
  return batch.replace(trunk=np.zeros((*batch.tokens.shape, width), np.float32))


def _row_numbers(shape, multiple: int) -> list[int]:
  """1/2, 3/4 and all of the rows, as `multiple` divides them; rising."""
  if shape.rows * shape.row_length < multiple * _WORTH:
    return [shape.rows]
  shares = (-(-shape.rows * quarters // 4) for quarters in (2, 3, 4))
  return sorted({rows + -rows % multiple for rows in shares})


def score(
  job, score_fn, params: PyTree, groups: Groups, trunk=None
) -> LossInputs:
  """The whole rollout on the host, [P, K, T]; a step's prompts at a time."""
  size, parts = job.config.batch.prompts, []
  for at in range(0, len(groups), size):
    own = slice(at, at + size)
    batch = pack(job, groups[own], ("sampler_logps",), trunk and trunk[own])
    sampler_logps = flatten_host(batch.columns["sampler_logps"])
    batch = batch.replace(columns={})
    found = score_fn(params, job.frozen, parallel.put_batch(job.mesh, batch))
    found = jax.tree.map(parallel.to_host, found)
    parts.append(found.replace(sampler_logps=sampler_logps))
  return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def flatten_host(x: np.ndarray) -> np.ndarray:
  return np.asarray(x).reshape(-1, *x.shape[2:])


def gap(x: LossInputs) -> dict[str, float]:
  """How far sampler and trainer are apart; see `agreement.compare`."""
  found = agreement.compare(
    x.policy_logps, np.nan_to_num(x.sampler_logps), _own(x)
  )
  return {k: float(v) for k, v in found.items()}


def _own(x: LossInputs) -> np.ndarray:
  """bool [P, K, T]: tokens that the policy itself has drawn."""
  return np.asarray(x.completion_mask) & np.isfinite(x.sampler_logps)


def divergence(x: LossInputs) -> dict[str, float]:
  """KL(policy || reference) of a sample in nats, by k1 and k3."""
  if x.reference_logps is None:
    return {}
  own = _own(x)
  d = np.where(own, x.policy_logps - x.reference_logps, 0.0)
  k3 = np.exp(np.clip(-d, -20, 20)) - 1 + d
  there = own.any(-1) & (x.weight > 0)[:, None]
  count = max(1, int(there.sum()))
  total = lambda v: float(np.sum(v.sum(-1) * there) / count)
  return {"kl/k1": total(d), "kl/k3": total(k3)}


def make_prepare(
  objective: Objective, importance_cap: float
) -> Callable[[LossInputs], LossInputs]:
  """x of `score` -> x with advantages and whatever else the method prepares.

  The old log-probs are the trainer's; with a cap, advantages are multiplied by
  min(exp(trainer - sampler), cap). `x.state` is the method's before the
  rollout; `x.token_feedback` may hold rewards of single tokens.

  Args:
    objective: the method and its settings.
    importance_cap: 0: no weights.
  """
  method = objective.method

  def prepare(x: LossInputs) -> LossInputs:
    sampler_logps = x.sampler_logps
    x = x.replace(sampler_logps=x.policy_logps, old_values=x.values, train=True)
    if method.prepare:
      x = method.prepare(x, **objective.settings)
      if importance_cap:
        weights = agreement.importance_weights(
          x.policy_logps, sampler_logps, x.completion_mask, importance_cap
        )
        x = x.replace(advantages=x.advantages * weights)
    return x

  run = jax.jit(prepare)
  return lambda x: jax.tree.map(np.asarray, run(x))


def names(objective: Objective) -> tuple[str, ...]:
  """Columns that every group of a rollout carries."""
  needs = objective.method.needs(objective.settings)
  return tuple(name for name in CARRIED if name in needs)


def attach(groups: Groups, x: LossInputs, carried: tuple[str, ...]) -> Groups:
  """The groups with the columns `carried` of x."""
  out = []
  for b, group in enumerate(groups):
    if group is None:
      out.append(None)
      continue
    sizes = [len(c) for c in group.completions]
    own = {
      name: tuple(getattr(x, name)[b, k, :n] for k, n in enumerate(sizes))
      for name in carried
    }
    out.append(dataclasses.replace(group, columns=own))
  return out


def explained(x: LossInputs) -> float:
  """Explained variance of the values, 1 - var(R - V) / var(R); NaN without."""
  if x.old_values is None or x.token_feedback is None:
    return float("nan")
  mask = jnp.asarray(x.completion_mask)
  returns, values = x.token_feedback, x.old_values
  variance = lambda v: float(
    ops.masked_mean((v - ops.masked_mean(v, mask)) ** 2, mask)
  )
  whole = variance(returns)
  return 1 - variance(returns - values) / whole if whole > 0 else float("nan")
