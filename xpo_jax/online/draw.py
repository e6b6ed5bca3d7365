"""Samples of the policy, and of an opponent, for one rollout's prompts.

Letters: B prompts, K completions, S new tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from xpo_jax import parallel, trio
from xpo_jax.data.records import TokenGroup
from xpo_jax.online import prompts as prompts_lib
from xpo_jax.rollout import refill, sampler
from xpo_jax.rollout.mixture import Mixture
from xpo_jax.rollout.steps import Sampling
from xpo_jax.trio import Frozen
from xpo_jax.types import PyTree, TrainState

_OWN, _OTHER = 11, 12  # of the run's key: noise of policy and opponent


class Drawn(NamedTuple):
  """Samples on the host; padding is 0 and False."""

  tokens: np.ndarray  # int32 [B, K, S]
  mask: np.ndarray  # bool [B, K, S], EOS included
  logps: np.ndarray  # f32 [B, K, S], of the sampler
  ended: np.ndarray  # bool [B, K]

  def ids(self, b: int, k: int) -> np.ndarray:
    return self.tokens[b, k][self.mask[b, k]]


class Drawer(NamedTuple):
  """What stays the same from draw to draw."""

  job: object
  how: Sampling
  width: int  # prompt slots
  layout: refill.Layout | None  # refilled slots, or all at once


def make_drawer(job, groups: Sequence[TokenGroup], end_id: int) -> Drawer:
  """For prompts out of `groups`, whose completions end with `end_id`."""
  own = job.config.rollout
  longest = max(len(g.prompt) for g in groups)
  parts = job.mesh.shape["data"] * job.mesh.shape["fsdp"]
  how = Sampling(
    completions=own.completions,
    max_new_tokens=job.config.data.max_completion_length,
    temperature=float(own.temperature),
    eos_id=end_id,
  )
  layout = refill.Layout(slots=own.slots, lanes=parts) if own.slots else None
  return Drawer(job, how, longest + -longest % 16, layout)


def policy(drawer: Drawer, state: TrainState, groups, rows) -> Drawn:
  """K samples of every prompt.

  Args:
    drawer: from `make_drawer`.
    state: whose policy is sampled.
    groups: B prompts.
    rows: int [B] numbers that no other draw of the run has; a token's noise
      depends on them and the seed only.
  """
  weights = trio.policy_weights(state.params["policy"], drawer.job.frozen)
  return _draw(drawer, weights, groups, rows, _OWN)


def opponent(drawer: Drawer, state: TrainState, groups, rows) -> Drawn:
  """The same of rollout.opponent."""
  weights = opponent_weights(drawer.job.config, state, drawer.job.frozen)
  return _draw(drawer, weights, groups, rows, _OTHER)


def opponent_weights(config, state: TrainState, frozen: Frozen) -> PyTree:
  """The reference, its mixture with the policy, or the policy's average."""
  own, params = config.rollout, state.params["policy"]
  if own.opponent == "ema":
    return trio.policy_weights(state.ema_params, frozen)
  reference = trio.reference_weights(params, frozen)
  if own.opponent == "reference":
    return reference
  return Mixture(trio.policy_weights(params, frozen), reference, own.mix)


def _draw(drawer: Drawer, weights, groups, rows, salt: int) -> Drawn:
  job = drawer.job
  tokens, lengths = prompts_lib.pad(groups, drawer.width)
  rows = np.asarray(rows, np.int32)
  key = jax.random.fold_in(jax.random.key(job.config.seed), salt)
  with parallel.use(job.mesh):
    put = lambda x: parallel.put_rows(job.mesh, x)
    args = (job.objective.model, weights, put(tokens), put(lengths), key)
    if drawer.layout:
      found, _ = refill.generate(
        *args, drawer.how, drawer.layout, rows=put(rows)
      )
    else:
      found = sampler.generate(*args, drawer.how, rows=put(rows))
  host = jax.tree.map(parallel.to_host, found)
  blank = lambda x: np.where(host.mask, x, 0).astype(x.dtype)
  return Drawn(
    blank(host.tokens), host.mask, blank(host.sampler_logps), host.ended
  )
