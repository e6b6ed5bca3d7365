"""States after the frozen blocks, computed once a rollout and not in each step.

Old log-probs, reference, values and every epoch of steps on the samples read
the same states. They stay in memory: a run that goes on in the middle of a
rollout computes them again, out of the same rows and so with the same bits.
"""

from collections.abc import Callable
import dataclasses

import jax
from jax import lax
import numpy as np

from xpo_jax import parallel, trio
from xpo_jax.data import packing
from xpo_jax.models import model as lm
from xpo_jax.online import columns
from xpo_jax.online.groups import Groups

States = list[np.ndarray | None]  # of every group, [slots, D]


def make(model: lm.Model) -> Callable | None:
  """(frozen, batch [n, ...]) -> states [n, R, L, D]; None if none is frozen."""
  if not model.trunk_blocks:
    return None

  def run(frozen, batches):
    one = lambda b: lm.trunk_states(
      model, frozen.trunk, b.tokens, trio.places(b)
    )
    return lax.scan(lambda _, b: (None, one(b)), None, batches)[1]

  return jax.jit(run)


def states(job, run: Callable | None, groups: Groups) -> States | None:
  """The states of a rollout's groups, a step's prompts at a time.

  Args:
    job: of the run.
    run: of `make`.
    groups: in the order in which `columns.score` takes them.
  """
  if run is None:
    return None
  size, found = job.config.batch.prompts, []
  for at in range(0, len(groups), size):
    own = groups[at : at + size]
    batch = columns.pack(job, own)
    rows = run(job.frozen, parallel.put_batch(job.mesh, batch))
    shape = dataclasses.replace(job.plan.shape, rows=batch.tokens.shape[1])
    for n, part in enumerate(parallel.to_host(rows)):
      inside = own[n * shape.prompts : (n + 1) * shape.prompts]
      found += packing.unpack(inside, shape, part)
  return found
