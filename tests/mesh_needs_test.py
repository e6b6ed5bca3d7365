"""Every class of `needs` on 8 devices, in microbatches, is the one on a single
device: loss, metrics, gradients (through SGD) and running statistics.

The slow set compiles two programs a class: 1 x 32 prompts on one device, and
4 x 8 prompts on a mesh of 8.
"""

import dataclasses
import types

import jax
import numpy as np
import optax
import pytest

from tests import tiny
from xpo_jax import config, job, parallel
from xpo_jax.models import model as lm
from xpo_jax.step import make_train_step
from xpo_jax.trio import Frozen

pytestmark = pytest.mark.slow

PROMPTS, RATE, STEPS = 32, 0.5, 2
COLUMNS = "sampler_logps old_values advantages token_feedback".split()
WIDE, DEEP = (4, 2, 1), (2, 2, 2)  # data x fsdp x tensor


@dataclasses.dataclass(frozen=True)
class Case:
  """A method, its settings, and a mesh to try them on."""

  name: str
  keywords: dict
  mesh: tuple[int, int, int]
  needs: str = ""  # in place of the method's own
  cached: bool = False


# A steep loss: gradients stand out of the rounding of parameters.
CASES = {
  "policy alone": Case("simpo", {}, WIDE),
  "cached reference": Case("dpo", {"beta": 1.0}, WIDE, cached=True),
  "live reference": Case("dpo", {"beta": 1.0}, DEEP),
  "forward kl": Case("tdpo1", {"beta": 1.0}, WIDE),
  "reverse kl": Case(
    "tdpo1", {"beta": 1.0}, DEEP, "reference_logps token_kl:reverse"
  ),
  "js": Case("tdpo1", {"beta": 1.0}, WIDE, "reference_logps token_kl:js"),
  "log_collision": Case("wpo", {"beta": 1.0}, DEEP),
  "contrast": Case("cringe", {"k": 3}, WIDE),
  "gated contrast": Case(
    "pairwise_cringe", {"alpha": 0.5, "gate_center": 0.0}, DEEP
  ),
  "values": Case("dro", {}, WIDE),
  "values and entropy": Case("ppo", {"entropy_coef": 0.1}, DEEP),
  "scores": Case("rm_bt", {}, WIDE),
  "token_scores": Case("rm_token", {}, DEEP),
  "noise and state": Case("beta_dpo", {"beta": 1.0, "keep": 0.7}, WIDE),
  "state": Case("bco", {"beta": 1.0}, DEEP),
  "mismatched completions": Case("kto", {"beta": 1.0}, WIDE),
  "sorted": Case("aot", {"beta": 1.0}, DEEP),
}


def objective(case):
  made = tiny.objective(case.name, **case.keywords)
  if not case.needs:
    return made
  needs = set(case.needs.split())
  method = dataclasses.replace(made.method, needs_of=lambda h: needs)
  return dataclasses.replace(made, method=method)


def batch(case, objective, parts):
  """[parts, 32 / parts] prompts, packed for any of the meshes."""
  host = tiny.batch(tiny.members(objective, PROMPTS), parts, 8)
  _, _, k, length = host.completion_mask.shape
  columns, noise = {}, np.random.default_rng(3)
  for name in [*COLUMNS, "reference_logps"]:
    numbers = noise.normal(0, 0.5, (PROMPTS, k, length))
    if name.endswith("logps"):
      numbers -= np.log(tiny.CONFIG.vocab_size)
    if name != "reference_logps" or case.cached:
      shape = host.completion_mask.shape
      columns[name] = numbers.astype(np.float32).reshape(shape)
  return host.replace(columns=columns)


def start(mesh, objective, tx):
  """The TrainState as runs make it, with whatever heads the method trains."""
  names, one = lm.specs(tiny.MODEL), jax.sharding.PartitionSpec()
  noise = np.random.default_rng(5)
  kernel = noise.normal(0, 0.3, tiny.CONFIG.width).astype(np.float32)
  head = {"kernel": kernel, "bias": np.float32(0.1)}
  spec = {"kernel": one, "bias": one}
  params, logical = tiny.policy(), {"policy": {"top": names}}
  if objective.method.trains_reward:
    params["policy"]["reward_head"] = head
    logical["policy"]["reward_head"] = spec
  if "values" in objective.method.needs(objective.settings):
    params["value"] = {"top": tiny.params(3), "head": head}
    logical["value"] = {"top": names, "head": spec}
  return job.init_state(
    types.SimpleNamespace(
      mesh=mesh,
      objective=objective,
      start=params,
      logical=logical,
      tx=tx,
      config=config.base(),
      online=None,
    )
  )


def train(case, shape, parts):
  """(start, end, metrics of every step) after STEPS steps on a mesh."""
  made, tx = objective(case), optax.sgd(RATE)
  mesh = parallel.make_mesh(*shape, jax.devices()[: np.prod(shape)])
  with parallel.use(mesh):
    state = start(mesh, made, tx)
    frozen = Frozen(
      reference=parallel.put_params(mesh, tiny.params(1), lm.specs(tiny.MODEL))
    )
    batches = parallel.put_batch(mesh, batch(case, made, parts))
    step = jax.jit(
      make_train_step(made, tx, lambda s: RATE),
      out_shardings=(
        jax.tree.map(lambda x: x.sharding, state),
        parallel.replicated(mesh),
      ),
      compiler_options=tiny.QUICK,
    )
    begin, seen = jax.device_get(state), []
    for _ in range(STEPS):
      state, values = step(state, frozen, batches)
      seen.append(jax.device_get(values))
  return begin, jax.device_get(state), seen


def agree(found, wanted):
  (_, end, seen), (begin, whole, numbers) = found, wanted
  moved = tiny.far(begin.params, whole.params)
  assert moved > 5e-3
  for owner, tree in begin.params.items():
    assert tiny.far(tree, whole.params[owner]) > 1e-3, owner
  gap = tiny.far(end.params, whole.params)
  assert gap < 1e-5 * moved + 5e-7, (gap, moved)
  for values, expected in zip(seen, numbers, strict=True):
    assert values.keys() == expected.keys()
    assert np.isfinite(expected["loss"])
    for name, number in expected.items():
      np.testing.assert_allclose(
        values[name], number, rtol=1e-5, atol=2e-6, err_msg=name
      )
  tree = jax.tree.structure(whole.method_state)
  assert jax.tree.structure(end.method_state) == tree
  pairs = zip(
    *map(jax.tree.leaves, (begin.method_state, end.method_state)),
    jax.tree.leaves(whole.method_state),
    strict=True,
  )
  for old, a, b in pairs:
    assert old != b, "the state never moved"
    np.testing.assert_allclose(a, b, rtol=2e-6)


@pytest.mark.parametrize("name", CASES)
def test_four_microbatches_on_eight_devices_are_one_on_one(name):
  case = CASES[name]
  alone = train(case, (1, 1, 1), 1)
  agree(train(case, case.mesh, 4), alone)
  if name in ("live reference", "values and entropy", "noise and state"):
    other = WIDE if case.mesh == DEEP else DEEP
    agree(train(case, other, 1), alone)
