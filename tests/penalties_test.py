"""The L1 norm of adapters: its value, its gradient, its place in the step."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from tests import tiny, tiny_models
from xpo_jax import config, penalties
from xpo_jax.errors import XpoError
from xpo_jax.step import make_train_step
from xpo_jax.trio import Frozen
from xpo_jax.types import TrainState

RATE, COEF, SCALE = 0.5, 0.01, 1.5
MODEL = dataclasses.replace(tiny.MODEL, lora=(3, SCALE))


@pytest.fixture(scope="module")
def factors():
  return tiny_models.lora(MODEL, up=0.2)


def pairs(lora):
  """(layer, name, A [N, in, r], B [N, r, out]) of every adapted kernel."""
  for layer, names in lora["blocks"].items():
    for name in (n.removesuffix("_down") for n in names if "_down" in n):
      down, up = names[f"{name}_down"], names[f"{name}_up"]
      n, rank = down.shape[0], down.shape[-1]
      yield layer, name, down.reshape(n, -1, rank), up.reshape(n, rank, -1)


def delta_by_hand(lora):
  """(sum |s A B|, its gradient by the chain rule through the signs)."""
  total, slopes = 0.0, {layer: {} for layer in lora["blocks"]}
  for layer, name, down, up in pairs(lora):
    down, up = down.astype(np.float64), up.astype(np.float64)
    delta = SCALE * down @ up
    total += np.abs(delta).sum()
    signs = np.sign(delta)
    own = lora["blocks"][layer]
    slopes[layer][f"{name}_down"] = (
      SCALE * signs @ up.transpose(0, 2, 1)
    ).reshape(own[f"{name}_down"].shape)
    slopes[layer][f"{name}_up"] = (
      SCALE * down.transpose(0, 2, 1) @ signs
    ).reshape(own[f"{name}_up"].shape)
  return total, {"blocks": slopes}


def factors_by_hand(lora):
  leaves = jax.tree.leaves(lora)
  total = sum(np.abs(x).sum(dtype=np.float64) for x in leaves)
  return total, jax.tree.map(np.sign, lora)


def slopes(target):
  """The jitted norm with its gradient."""
  value = lambda x: penalties.lora_l1(x, SCALE, target)
  return jax.jit(jax.value_and_grad(value), compiler_options=tiny.QUICK)


BY_HAND = {"delta": delta_by_hand, "factors": factors_by_hand}


@pytest.mark.parametrize("target", penalties.TARGETS)
def test_value_and_gradient_are_those_by_hand(target, factors):
  assert len(list(pairs(factors))) == 7  # every kernel of a block
  found, slope = slopes(target)(factors)
  value, wanted = BY_HAND[target](factors)
  assert found == pytest.approx(value, rel=1e-5) and value > 1
  assert jax.tree.structure(slope) == jax.tree.structure(wanted)
  assert tiny.far(slope, wanted) < 2e-5


@pytest.mark.parametrize("target", penalties.TARGETS)
def test_gradient_is_the_finite_difference(target, factors):
  noise = np.random.default_rng(1)
  with jax.enable_x64(True):
    lora = jax.tree.map(lambda x: x.astype(np.float64), factors)
    way = jax.tree.map(lambda x: noise.normal(size=x.shape), lora)
    moved = lambda h: jax.tree.map(lambda a, b: a + h * b, lora, way)
    both, step = slopes(target), 1e-9  # no entry changes its sign on the way
    slope = (both(moved(step))[0] - both(moved(-step))[0]) / (2 * step)
    grads = both(lora)[1]
    along = sum(map(np.vdot, jax.tree.leaves(grads), jax.tree.leaves(way)))
  assert float(slope) == pytest.approx(float(along), rel=1e-4)
  assert abs(along) > 1


def test_at_the_start_the_change_is_0_and_so_is_its_slope():
  lora = tiny_models.lora(MODEL, up=0.0)
  value, slope = slopes("delta")(lora)
  assert value == 0
  assert all((x == 0).all() for x in jax.tree.leaves(slope))
  _, slope = slopes("factors")(lora)
  for name in ("query_up", "query_down"):
    size = np.abs(slope["blocks"]["attention"][name])
    assert (size == (name == "query_down")).all()
  assert penalties.make_l1(0.0, SCALE, "delta") is None


def one_step(factors, microbatches, l1):
  """(gradients by plain descent, metrics)."""
  objective = tiny.objective("sft", MODEL)
  params, tx = {"policy": {"lora": factors}}, optax.sgd(RATE)
  state = TrainState(
    step=np.int32(0),
    params=params,
    opt_state=tx.init(params),
    key=jax.random.key(3),
    method_state=None,
    skipped=np.int32(0),
  )
  step = make_train_step(objective, tx, optax.constant_schedule(RATE), l1=l1)
  batch = tiny.batch(tiny.members(objective, 8), microbatches)
  run = jax.jit(step, compiler_options=tiny.QUICK)
  after, values = run(state, Frozen(top=tiny.params()), batch)
  grads = jax.tree.map(
    lambda a, b: (np.asarray(b, float) - np.asarray(a, float)) / RATE,
    after.params["policy"]["lora"],
    factors,
  )
  return grads, jax.device_get(values)


def test_the_step_adds_it_once_whatever_the_microbatches(factors):
  l1 = penalties.make_l1(COEF, SCALE, "delta")
  plain, before = one_step(factors, 1, None)
  value, slope = delta_by_hand(factors)
  wanted = jax.tree.map(lambda a, b: a + COEF * b, plain, slope)
  for microbatches in (1, 4):
    grads, values = one_step(factors, microbatches, l1)
    assert tiny.far(grads, wanted) < 1e-5
    assert values["loss/l1"] == pytest.approx(COEF * value, rel=1e-5)
    assert values["loss/main"] == pytest.approx(before["loss"], rel=1e-5)
    total = values["loss/main"] + values["loss/l1"]
    assert values["loss"] == pytest.approx(total, rel=1e-6)
  assert tiny.far(plain, wanted) > 1e-2
  assert not {"loss/main", "loss/l1"} & set(before)


@pytest.mark.parametrize(
  "changes, words",
  [
    (
      {"lora.l1": 1e-4},
      "lora.l1=0.0001 is a penalty on adapters, but lora.ran",
    ),
    ({"lora.l1": -1.0, "lora.rank": 4}, "lora.l1=-1.0 must be >= 0"),
    (
      {"lora.l1_target": "factor"},
      "lora.l1_target='factor': did you mean 'factors'?",
    ),
  ],
)
def test_a_penalty_that_cannot_be_is_refused(changes, words):
  c = config.base("tiny").unlock()
  c.method = config.method("sft")
  c.data.source = "films"
  c.update_from_flattened_dict(changes)
  with pytest.raises(XpoError) as error:
    config.validate(c.lock())
  assert words in str(error.value)
