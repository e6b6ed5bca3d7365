"""A model of a few thousand weights and made-up token groups, for the tests
of the step and the mesh."""

import contextlib
import functools

from flax import linen as nn
import jax
import numpy as np

from xpo_jax import methods
from xpo_jax.data import packing, planning
from xpo_jax.data.records import TokenGroup
from xpo_jax.models import model as lm
from xpo_jax.models.model import Model
from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.step import Objective
from xpo_jax.trio import Frozen
from xpo_jax.types import Feedback

CONFIG = TransformerConfig(
  vocab_size=32,
  width=16,
  layers=2,
  heads=4,
  kv_heads=2,
  head_dim=4,
  mlp_width=32,
  max_length=64,
)
MODEL = Model(CONFIG)
QUICK = {  # to compile, not to run; the programs are the same
  "xla_backend_optimization_level": 0,
  "xla_cpu_use_fusion_emitters": False,
}
FEEDBACK = {
  Feedback.DEMONSTRATION: lambda n: (1.0,),
  Feedback.ORDER: lambda n: (1.0, 0.0),
  # KTO: +1 or -1, then another prompt's completion for z0 alone.
  Feedback.BINARY: lambda n: (1.0 if n % 3 else -1.0, 0.0),
  Feedback.SCORE: lambda n: (0.3 * (n % 5) - 0.7, 0.2 * (n % 3)),
}


def objective(name: str, model: Model = MODEL, **keywords) -> Objective:
  method = methods.get(name)
  return Objective(model, method, method.settings(keywords))


def members(objective: Objective, number: int, seed: int = 0):
  """Ragged groups of the kind and K that the objective's method takes."""
  method, noise = objective.method, np.random.default_rng(seed)
  kind = next(kind for kind in FEEDBACK if kind in method.feedback)

  def draw(low, high):
    size = noise.integers(low, high + 1)
    return noise.integers(1, CONFIG.vocab_size, size).astype(np.int32)

  out = []
  for n in range(number):
    feedback = FEEDBACK[kind](n)[: method.completions[1]]
    out.append(
      TokenGroup(
        id=f"made:{n + 1}",
        cluster="",
        prompt=draw(2, 5),
        completions=tuple(draw(1, 7) for _ in feedback),
        ended=(True,) * len(feedback),
        feedback=feedback,
        kind=kind,
      )
    )
  return out


def batch(groups, microbatches: int = 1, row_multiple: int = 1, slots=0):
  """One step's batch [microbatches, ...] of all groups, in their order.

  `slots` empty ones (weight 0) are put behind the groups.
  """
  order = np.concatenate([np.arange(len(groups)), np.full(slots, -1)])
  order = order.astype(np.int32)
  lengths = planning.group_lengths(groups)
  plan = planning._finish(order[None], lengths, microbatches, 32, row_multiple)
  return packing.pack_step(groups, plan, 0, groups[0].kind)


@functools.cache
def params(seed: int = 0, model: Model = MODEL):
  """Whole-model parameters as numpy; norms near 1, the rest near 0."""
  noise = np.random.default_rng(seed)

  def draw(path, leaf):
    mean = 1.0 if path[-1].key == "scale" else 0.0
    return noise.normal(mean, 0.2, leaf.shape).astype(np.float32)

  shapes = jax.eval_shape(lambda: nn.unbox(lm.init(model, jax.random.key(0))))
  return jax.tree_util.tree_map_with_path(draw, shapes)


def policy(seed: int = 0, model: Model = MODEL):
  """Trainable parameters of a run that trains all weights."""
  return {"policy": {"top": params(seed, model)}}


def frozen(seed: int = 1) -> Frozen:
  """A live reference of other weights than the policy's."""
  return Frozen(reference=params(seed))


def far(one, other) -> float:
  """The largest difference between two trees."""
  pairs = jax.tree.map(
    lambda a, b: np.max(np.abs(np.asarray(a, float) - np.asarray(b, float))),
    one,
    other,
  )
  return max(jax.tree.leaves(pairs))


@contextlib.contextmanager
def compilations(name: str):
  """A list that grows with every program of that name that is compiled."""
  seen = []

  def note(event, _, fun_name="", **__):
    if event.endswith("backend_compile_duration") and fun_name == name:
      seen.append(event)

  jax.monitoring.register_event_duration_secs_listener(note)
  try:
    yield seen
  finally:
    jax.monitoring.unregister_event_duration_listener(note)
