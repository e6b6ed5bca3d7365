"""The samplers on eight devices draw what they draw on one."""

import dataclasses

from flax import linen as nn
import jax
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from tests import tiny
from xpo_jax import parallel
from xpo_jax.models import model as lm
from xpo_jax.models.model import Model, Weights
from xpo_jax.rollout import refill, sampler

pytestmark = pytest.mark.slow  # a program a mesh
MODEL = Model(dataclasses.replace(tiny.CONFIG, layers=1))
HOW = sampler.Sampling(completions=2, max_new_tokens=6, eos_id=3)
LORA = dataclasses.replace(MODEL, lora=(4, 2.0))
KEY = jax.random.key(5)


def prompts(count):
  noise = np.random.default_rng(0)
  tokens = noise.integers(0, tiny.CONFIG.vocab_size, (count, 6))
  return tokens.astype(np.int32), noise.integers(1, 7, count).astype(np.int32)


def on_mesh(shape, ask):
  mesh = parallel.make_mesh(*shape, jax.devices())
  params = tiny.params(model=MODEL)
  with parallel.use(mesh):
    placed = parallel.put_params(mesh, params, lm.specs(MODEL))
    return ask(Weights({}, placed))


def assert_same(found, one):
  np.testing.assert_array_equal(found.tokens, one.tokens)
  np.testing.assert_array_equal(found.mask, one.mask)
  np.testing.assert_array_equal(found.ended, one.ended)
  np.testing.assert_allclose(found.sampler_logps, one.sampler_logps, atol=1e-5)


@pytest.mark.parametrize(
  "shape, count, rows",
  [
    ((2, 2, 2), 4, PartitionSpec(("data", "fsdp"))),
    ((8, 1, 1), 3, PartitionSpec()),  # more devices than prompts
    ((1, 8, 1), 8, PartitionSpec("fsdp")),
  ],
)
def test_sampler(shape, count, rows):
  ask = lambda weights: sampler.generate(
    MODEL, weights, *prompts(count), KEY, HOW
  )
  found = on_mesh(shape, ask)
  assert found.tokens.sharding.spec == rows
  assert_same(found, ask(Weights({}, tiny.params(model=MODEL))))


@pytest.fixture(scope="module")
def alone():
  """Eight prompts' samples on one device."""
  weights = Weights({}, tiny.params(model=MODEL))
  return sampler.generate(MODEL, weights, *prompts(8), KEY, HOW)


@pytest.mark.parametrize(
  "shape, lanes",
  [((4, 1, 2), 4), ((2, 2, 2), 4), ((8, 1, 1), 8), ((4, 1, 2), 1)],
)
def test_refill(shape, lanes, alone):
  """A lane on every row of devices; and fewer lanes than devices."""
  layout = refill.Layout(slots=3, lanes=lanes, chunk=4)
  ask = lambda weights: refill.generate(
    MODEL, weights, *prompts(8), KEY, HOW, layout
  )
  assert_same(on_mesh(shape, ask)[0], alone)


@pytest.fixture(scope="module")
def factors():
  """Low-rank factors of one's own size: neither of a pair is zero."""
  made = nn.unbox(lm.init_lora(LORA, KEY))
  noise = np.random.default_rng(2)
  draw = lambda x: noise.normal(0, 0.3, x.shape).astype(np.float32)
  return jax.tree.map(draw, made)


@pytest.mark.parametrize("shape", [(1, 8, 1), (2, 2, 2)])
def test_low_rank_factors(shape, factors, alone):
  """Shards of the policy's factors; gathered before the loops, on devices."""
  layout = refill.Layout(slots=3, lanes=shape[0] * shape[1], chunk=4)
  params, asked = tiny.params(model=MODEL), (*prompts(8), KEY, HOW)
  one = sampler.generate(LORA, Weights({}, params, factors), *asked)
  assert np.any(one.tokens != alone.tokens)  # they say something
  mesh = parallel.make_mesh(*shape, jax.devices())
  with parallel.use(mesh):
    placed = parallel.put_params(mesh, params, lm.specs(MODEL))
    put = parallel.put_params(mesh, factors, lm.lora_specs(LORA))
    down = put["blocks"]["mlp"]["gate_down"]  # [layers, embed, rank]
    assert down.sharding.spec == PartitionSpec(None, "fsdp", None)
    weights = Weights({}, placed, put)
    program = refill.generate.lower(LORA, weights, *asked, layout)
    found, _ = refill.generate(LORA, weights, *asked, layout)
  assert_same(found, one)
  if shape[2] == 1:  # else drawn tokens are gathered as well, at each step
    text = program.compile().as_text()
    once = text.partition("\nENTRY ")[2].count(" all-gather(")
    assert text.count(" all-gather(") == once > 0
