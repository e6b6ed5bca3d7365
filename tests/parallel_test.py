"""One device = eight, and everything is really sharded as the table says."""

import functools
import types

import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from tests import tiny
from xpo_jax import config, job, parallel
from xpo_jax.errors import XpoError
from xpo_jax.models import model as lm
from xpo_jax.optimizer import make_optimizer, make_schedule
from xpo_jax.train import compile_step
from xpo_jax.trio import Frozen

P = PartitionSpec
# What the table must come to, written out.
SPECS = {
  "embed": {"embedding": P("tensor", "fsdp")},
  "blocks": {
    "attention_norm": {"scale": P(None, None)},
    "attention": {
      "query": P(None, "fsdp", "tensor", None),
      "key": P(None, "fsdp", "tensor", None),
      "value": P(None, "fsdp", "tensor", None),
      "out": P(None, "tensor", None, "fsdp"),
    },
    "mlp_norm": {"scale": P(None, None)},
    "mlp": {
      "gate": P(None, "fsdp", "tensor"),
      "up": P(None, "fsdp", "tensor"),
      "down": P(None, "tensor", "fsdp"),
    },
  },
  "final_norm": {"scale": P(None)},
}
PERMUTED = [5, 2, 7, 0, 3, 6, 1, 4]


def start(mesh, objective, optimizer="adamw"):
  """A sharded TrainState, through the code that runs use."""
  settings = config.base().unlock().optimizer
  settings.name, settings.learning_rate = optimizer, 1e-3
  names = lm.specs(tiny.MODEL)
  made = types.SimpleNamespace(
    mesh=mesh,
    objective=objective,
    start=tiny.policy(),
    logical={"policy": {"top": names}},
    tx=make_optimizer(settings, 10),
    schedule=make_schedule(settings, 10),
    aux=None,
    config=config.base(),
    online=None,
  )
  return made, job.init_state(made)


def train(shape, name="dpo", order=None, microbatches=1, steps=3):
  """(state, losses, compilations) on a mesh of that shape."""
  devices = np.array(jax.devices())[order or slice(np.prod(shape))]
  mesh = parallel.make_mesh(*shape, devices=devices)
  objective = tiny.objective(name)
  with parallel.use(mesh):
    made, state = start(mesh, objective)
    reference = parallel.put_params(mesh, tiny.params(1), lm.specs(tiny.MODEL))
    frozen, step = Frozen(reference=reference), compile_step(made, state)
    host = tiny.batch(
      tiny.members(objective, 16), microbatches, shape[0] * shape[1]
    )
    batch, losses = parallel.put_batch(mesh, host), []
    with tiny.compilations("jit(step)") as count:
      for _ in range(steps):
        before = state
        state, values = step(before, frozen, batch)
        losses.append(float(values["loss"]))
  assert all(x.is_deleted() for x in jax.tree.leaves(before.params))  # donated
  return state, losses, len(count)


@functools.cache
def alone(name):
  return train((1, 1, 1), name)


def same(found, expected):
  (state, losses, _), (whole, numbers, _) = found, expected
  np.testing.assert_allclose(losses, numbers, rtol=1e-5)
  assert tiny.far(state.params, whole.params) < 1e-5
  assert tiny.far(whole.params["policy"]["top"], tiny.params()) > 2e-3


def check_sharded(tree, mesh):
  def check(spec, x):
    wanted = NamedSharding(mesh, spec)
    assert x.sharding.is_equivalent_to(wanted, x.ndim), (spec, x.sharding)
    parts = [mesh.shape[axis] for axis in spec if axis]
    local = x.addressable_shards[0].data
    assert local.size * np.prod(parts, dtype=int) == x.size

  jax.tree.map(check, SPECS, tree, is_leaf=lambda x: isinstance(x, P))


def test_eight_devices_are_one():
  assert alone("dpo")[2] == 1  # compiled once
  found = train((2, 2, 2), order=PERMUTED, microbatches=2)
  same(found, alone("dpo"))
  state, _, compilations = found
  assert compilations == 1
  mesh = state.step.sharding.mesh
  assert mesh.shape == {"data": 2, "fsdp": 2, "tensor": 2}
  assert [d.id for d in mesh.devices.flat] == PERMUTED
  check_sharded(state.params["policy"]["top"], mesh)
  adam = state.opt_state[1][0]
  check_sharded(adam.mu["policy"]["top"], mesh)
  check_sharded(adam.nu["policy"]["top"], mesh)
  assert adam.count.sharding.is_fully_replicated


@pytest.mark.slow
@pytest.mark.parametrize(
  "name, shape",
  [
    ("dpo", (8, 1, 1)),
    ("dpo", (1, 8, 1)),
    ("dpo", (1, 1, 2)),
    ("dpo", (4, 1, 2)),
    ("kto", (2, 2, 2)),
  ],
)
def test_every_mesh_is_one_device(name, shape):
  state, *rest = train(shape, name)
  same((state, *rest), alone(name))
  check_sharded(state.params["policy"]["top"], state.step.sharding.mesh)


@pytest.mark.parametrize(
  "optimizer", ["adamw", "sgd", "rmsprop", "lion", "adafactor"]
)
def test_state_starts_sharded(optimizer):
  mesh = parallel.make_mesh(2, 2, 2, jax.devices())
  with parallel.use(mesh):
    _, state = start(mesh, tiny.objective("dpo"), optimizer)
  check_sharded(state.params["policy"]["top"], mesh)
  assert tiny.far(state.params["policy"]["top"], tiny.params()) == 0
  moments = {
    "adamw": lambda s: (s[1][0].mu, s[1][0].nu),
    "lion": lambda s: (s[1][0].mu,),
    "rmsprop": lambda s: (s[1][0].nu,),
  }
  for tree in moments.get(optimizer, lambda s: ())(state.opt_state):
    check_sharded(tree["policy"]["top"], mesh)
  for leaf in jax.tree.leaves((state.opt_state, state.key, state.skipped)):
    assert leaf.sharding.device_set == set(jax.devices())


def test_batches_are_sharded_over_data_and_fsdp():
  mesh = parallel.make_mesh(2, 2, 2, jax.devices())
  host = tiny.batch(tiny.members(tiny.objective("dpo"), 8), 2, 4)
  batch = parallel.put_batch(mesh, host)
  rows = host.tokens.shape[1]
  assert rows % 4 == 0 and host.weight.shape == (2, 4)
  wanted = NamedSharding(mesh, P(None, ("data", "fsdp")))
  for x, y in zip(jax.tree.leaves(batch), jax.tree.leaves(host), strict=True):
    assert x.sharding.is_equivalent_to(wanted, x.ndim)
    np.testing.assert_array_equal(parallel.to_host(x), y)
  shard = batch.tokens.addressable_shards[0].data
  assert shard.shape == (2, rows // 4, host.tokens.shape[2])


def test_an_unknown_axis_is_an_error():
  mesh = parallel.make_mesh(8, 1, 1, jax.devices())
  tree = {"kernel": P("embed", "colour")}
  with pytest.raises(XpoError, match="'colour' has no rule"):
    parallel.shardings(mesh, tree)


@pytest.mark.parametrize(
  "shape, words",
  [
    ((1, 1, 8), "mesh.tensor=8 does not divide the model's heads=4"),
    ((2, 1, 4), "mesh.tensor=4 does not divide the model's kv_heads=2"),
    ((1, 8, 1), "mesh.fsdp=8 does not divide the model's width=20"),
  ],
)
def test_sizes_that_do_not_divide(shape, words):
  sizes = types.SimpleNamespace(
    heads=4, kv_heads=2, mlp_width=32, vocab_size=32, width=20
  )
  mesh = parallel.make_mesh(*shape, jax.devices())
  with pytest.raises(XpoError, match=words) as error:
    parallel.check_divides(sizes, mesh)
  assert error.value.code == 64 and "choose a divisor of" in str(error.value)
