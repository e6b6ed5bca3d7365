"""The samplers compiled for eight v5e chips: what a decode step moves, holds.

Weights as wide as Llama 3 8B's, two layers deep, sharded as a trainer's.
"""

import dataclasses
import json
import math
import os
from pathlib import Path
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from xpo_jax import parallel
from xpo_jax.aot import hlo, topologies
from xpo_jax.models import model as lm
from xpo_jax.models import presets
from xpo_jax.models.model import Model, Weights
from xpo_jax.rollout import refill, sampler, select

pytestmark = pytest.mark.slow
POD = topologies.get("v5e-8")
CONFIG = dataclasses.replace(presets.SIZES["llama8b"], layers=2)
MODEL = Model(CONFIG, dtype="bfloat16")
B, P, K, S = 16, 512, 8, 256
HOW = sampler.Sampling(completions=K, max_new_tokens=S, eos_id=1)
KINDS = ("generate", "refill", "rejection")
LITTLE = 2**14  # bytes: one number a slot, or a mask of its steps


def traced(kind, weights, array):
  """A sampler over shapes: 16 x 8 slots; 64 prompts if they are refilled."""
  key = array(jax.eval_shape(lambda: jax.random.key(0)).dtype)
  prompts = lambda n: (array(jnp.int32, n, P), array(jnp.int32, n))
  if kind == "generate":
    return sampler.generate.trace(MODEL, weights, *prompts(B), key, HOW)
  if kind == "refill":
    shape = jax.sharding.get_abstract_mesh().shape
    lanes = shape["data"] * shape["fsdp"]
    layout = refill.Layout(slots=B * K // lanes, lanes=lanes)
    return refill.generate.trace(
      MODEL, weights, *prompts(4 * B), key, HOW, layout
    )
  shape = (1024, 64)
  ask = jax.jit(select.sample_rejection, static_argnums=3)
  return ask.trace(key, array(jnp.float32, *shape), array(bool, *shape), 8, 0.5)


def write(folder, *sizes):
  """Compiles all of KINDS; in a process of its own, as libtpu wants it."""
  topologies.prepare(POD)
  jax.config.update("jax_platforms", "cpu")
  mesh = parallel.make_mesh(*map(int, sizes), topologies.devices(POD))
  one = parallel.replicated(mesh)
  array = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, dtype, sharding=one)
  key = jax.random.key(0)
  shapes = jax.eval_shape(lambda: nn.unbox(lm.init(MODEL, key)))
  params = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    parallel.shardings(mesh, lm.specs(MODEL)),
  )
  for kind in KINDS:
    with parallel.use(mesh):
      lowered = traced(kind, Weights({}, params), array).lower(
        lowering_platforms=("tpu",)
      )
      compiled = lowered.compile()
    stats = compiled.memory_analysis()
    (Path(folder) / f"{kind}.txt").write_text(compiled.as_text())
    sizes = [stats.argument_size_in_bytes, stats.temp_size_in_bytes]
    (Path(folder) / f"{kind}.json").write_text(json.dumps(sizes))


@dataclasses.dataclass
class Loop:
  """A while loop: its condition and all that its own body runs."""

  carry: str
  condition: list[hlo.Instruction]
  body: list[hlo.Instruction]


@dataclasses.dataclass
class Found:
  mesh: tuple[int, int, int]
  arguments: int
  temp: int
  entry: list[hlo.Instruction]
  loops: list[Loop]

  @property
  def rows(self) -> int:
    return self.mesh[0] * self.mesh[1]

  @property
  def decoding(self) -> Loop:
    """The loop that has logits."""
    size = CONFIG.vocab_size // self.mesh[2]
    logits = lambda ops: any(k == "f32" and size in d for k, d in arrays(ops))
    (one,) = [loop for loop in self.loops if logits(loop.body)]
    return one


def read(folder, kind, mesh) -> Found:
  module = hlo.parse((folder / f"{kind}.txt").read_text())
  scopes, whiles = {}, []
  for name, _, scope in hlo.runs(module):
    ops = module.computations.get(name, [])
    scopes.setdefault(scope, []).extend(ops)
    whiles += [op for op in ops if op.opcode == "while"]
  loops = []
  for op in whiles:
    condition, body = hlo._WHILE.search(op.rest).groups()
    loops.append(Loop(op.shape, module.computations[condition], scopes[body]))
  sizes = json.loads((folder / f"{kind}.json").read_text())
  return Found(mesh, *sizes, scopes[module.entry], loops)


@pytest.fixture(scope="module", params=[(1, 8, 1), (2, 2, 2)], ids=str)
def found(request, root, tmp_path_factory):
  """Kind -> Found, of one mesh."""
  folder = tmp_path_factory.mktemp("pod")
  sizes = ", ".join(map(repr, request.param))
  code = "from tests.aot import rollout_test as t; t.write"
  done = subprocess.run(
    [sys.executable, "-c", f"{code}({str(folder)!r}, {sizes})"],
    capture_output=True,
    text=True,
    cwd=root,
    env=os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(root)},
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return {kind: read(folder, kind, request.param) for kind in KINDS}


def arrays(ops):
  """(type, dimensions) of every array that an instruction makes."""
  for op in ops:
    for kind, sizes in hlo._ARRAY.findall(op.shape):
      yield kind, tuple(map(int, filter(None, sizes.split(","))))


def largest(ops, kind) -> int:
  """Elements of the largest array of a type."""
  return max(math.prod(d) for k, d in [("f32", ()), *arrays(ops)] if k == kind)


def collectives(ops) -> list[tuple[str, int, int]]:
  """(kind, bytes, devices), one a channel, the largest first."""
  seen = {}
  for op in ops:
    kind, channel = (
      op.opcode.removesuffix("-start"),
      hlo._CHANNEL.search(op.rest),
    )
    if kind in hlo.KINDS and channel:
      what = (kind, hlo._largest(op), hlo._devices(op.rest))
      seen.setdefault(channel[1], what)
  return sorted(seen.values(), key=lambda x: -x[1])


SAMPLERS = pytest.mark.parametrize("kind", KINDS[:2])


@SAMPLERS
def test_a_steps_collectives(found, kind):
  """Two sums a layer and one of embeddings; the logits are dealt out once."""
  x = found[kind]
  tensor = x.mesh[2]
  moved = collectives(x.decoding.body)
  large = [c for c in moved if c[1] > LITTLE]
  slots = B * K // x.rows
  states = ("all-reduce", slots * CONFIG.width * 2, tensor)
  logits = ("all-to-all", slots * CONFIG.vocab_size // tensor * 4, tensor)
  wanted = [logits] + [states] * (2 * CONFIG.layers + 1)
  assert large == (wanted if tensor > 1 else [])
  # Tokens, their log-probs and masks go between devices of the same rows.
  assert {c[2] for c in moved} <= {tensor}
  if tensor == 1:
    assert moved == []


@SAMPLERS
def test_every_loop_asks_all_rows_whether_to_go_on(found, kind):
  """Or devices would leave it at different steps, and others wait for them."""
  for loop in found[kind].loops:
    asked = collectives(loop.condition)
    assert asked and {c[2] for c in asked} == {found[kind].rows}


@SAMPLERS
def test_weights_are_gathered_once(found, kind):
  """Before the loops, in bfloat16; a refill's prefill finds them there."""
  x = found[kind]
  c, tensor, fsdp = CONFIG, x.mesh[2], x.mesh[1]
  heads = (c.heads * c.head_dim, c.kv_heads * c.head_dim)
  outputs = [heads[0], heads[1], heads[1], heads[0]] + [c.mlp_width] * 3
  one = [2 * c.width * n // tensor for n in outputs * c.layers]
  one += [2 * c.width * c.vocab_size // tensor] * 2
  gathers = lambda ops: [
    c for c in collectives(ops) if c[0] == "all-gather" and c[1] > LITTLE
  ]
  wanted = [("all-gather", size, fsdp) for size in sorted(one)[::-1]]
  assert gathers(x.entry) == wanted
  assert all(gathers(loop.body) == [] for loop in x.loops)


@SAMPLERS
def test_no_device_has_all_logits(found, kind):
  """A device has [rows, slots, V] / 8 and no larger float32 array in a step."""
  logits = B * K * CONFIG.vocab_size // POD.devices
  assert largest(found[kind].decoding.body, "f32") == logits


@SAMPLERS
def test_a_prompts_keys_are_there_once(found, kind):
  """Not once a branch: neither in the loop's carry nor in a step."""
  x = found[kind]
  prompts = B // x.rows
  if kind == "refill":  # places of the cache for three prompts a K slots
    prompts = 3 * B // x.rows
  once = prompts * CONFIG.kv_heads // x.mesh[2] * CONFIG.head_dim * P
  holds = lambda d: P in d and CONFIG.head_dim in d
  carried = [
    d for _, d in arrays([hlo.Instruction("", x.decoding.carry, "", "")])
  ]
  keys = [math.prod(d) for d in carried if holds(d)]
  # The compiler may fetch one part ahead of its use.
  assert 2 * CONFIG.layers <= len(keys) <= 2 * CONFIG.layers + 1
  assert set(keys) == {once}
  inside = {math.prod(d) for _, d in arrays(x.decoding.body) if holds(d)}
  assert max(inside) == once


@SAMPLERS
def test_memory_is_the_arithmetic(found, kind):
  """Float32 shards come in; one bfloat16 copy without fsdp is made of them."""
  x = found[kind]
  c, tensor = CONFIG, x.mesh[2]
  block = c.width * c.head_dim * 2 * (c.heads + c.kv_heads)
  block += 3 * c.width * c.mlp_width
  matrices = c.layers * block + 2 * c.width * c.vocab_size
  assert x.arguments == pytest.approx(
    4 * matrices / (x.mesh[1] * tensor), rel=0.01
  )
  prompts = (3 if kind == "refill" else 1) * B // x.rows
  places = prompts * P + B * K // x.rows * S
  cache = c.layers * 2 * places * c.kv_heads // tensor * c.head_dim * 2
  held = 2 * matrices // tensor + cache
  # A layer's shards in bfloat16 and the activations of the prefill.
  assert held < x.temp < held + 0.85 * 2**30


def test_rejection_crosses_no_rows(found):
  """RSO's arrays are small and whole on every device."""
  x = found["rejection"]
  assert collectives(x.entry) == [] and len(x.loops) >= 1
  assert all(collectives(loop.body) == [] for loop in x.loops)
