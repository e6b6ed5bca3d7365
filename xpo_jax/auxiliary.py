"""A second loss with data of its own, added to the method's at every step.

PPO-ptx is 27.8 x `sft` on pretraining text, the retain term of unlearning is
`sft` on what must be kept, and so on. One auxiliary loss comes from the
config's `aux` section; the step itself takes any number of them.
"""

import dataclasses

from xpo_jax import examples, methods
from xpo_jax.data import planning
from xpo_jax.errors import usage_error
from xpo_jax.methods import registry
from xpo_jax.methods.registry import Method
from xpo_jax.step import Objective

# What the trio computes for any batch, without state, rollout or value model.
_SERVED = registry.FROM_DATA | set(
  "reference_logps entropy log_collision contrast_logps noise".split()
)


@dataclasses.dataclass(frozen=True)
class Auxiliary:
  """coef x objective on `data`, in the order of `plan`."""

  objective: Objective
  coef: float
  data: examples.Dataset
  plan: planning.Plan


def method_of(config) -> Method | None:
  """The method of the `aux` section; None when it is off.

  Raises:
    XpoError: no such method, or one that cannot be an auxiliary loss.
  """
  name = config.aux.method
  if not name:
    return None
  method = methods.get(name)
  served = set(_SERVED)
  if methods.get(config.method.name).trains_reward:
    served |= {"scores", "token_scores"}  # there is a reward head
  rest, start = method.needs({}) - served, method.init_state
  if rest or (start and start(method.settings({})) is not None):
    why = ", ".join(sorted(rest)) or "running statistics"
    raise usage_error(
      f"aux.method={name!r} needs {why}, which only the main method gets; use "
      "sft, dpo, kto or another loss on fixed data"
    )
  return method


def data_config(config):
  """The config whose `data` section is the auxiliary loss's data."""
  whole = config.copy_and_resolve_references().unlock()
  whole.data.source = config.aux.source
  whole.data.split = config.aux.split
  whole.data.format = config.aux.format
  whole.data.first, whole.data.limit = 0, config.aux.limit
  whole.data.eval_source = ""
  whole.batch.prompts = config.aux.prompts or config.batch.prompts
  return whole.lock()
