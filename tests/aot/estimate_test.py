"""What a step needs, against sums by hand; real compilers in the slow set."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xpo_jax import config, placement
from xpo_jax.aot import abstract, estimate, flops, topologies
from xpo_jax.errors import Exit, XpoError
from xpo_jax.models import presets

GIB = 2**30


def chosen(method="dpo", **changes):
  c = config.base("llama8b").unlock()
  c.method = config.method(method)
  c.data.source = "nothing.jsonl"
  c.train.steps, c.train.epochs = 10, 0.0
  flat = {k.replace("__", "."): v for k, v in changes.items()}
  c.update_from_flattened_dict(flat)
  return c.lock()


def test_flops_count_loops_and_branches():
  w = jnp.zeros((4, 5))

  def f(x):  # [3, 4]
    y = jax.lax.scan(lambda c, _: (c @ w @ w.T, None), x, None, length=7)[0]
    less = lambda y: (y @ w)[:, 0]
    return jax.lax.cond(y[0, 0] > 0, less, lambda y: y[:, 0], y)

  jaxpr = jax.make_jaxpr(f)(jnp.zeros((3, 4)))
  one = 2 * 3 * 4 * 5
  assert flops.matrix_flops(jaxpr.jaxpr) == 7 * 2 * one + one


@pytest.fixture(scope="module")
def program():
  """8B DPO with a live reference on the 8 devices of the tests."""
  return abstract.program(chosen(reference__mode="live"), jax.devices())


def kernels():
  """Weights of Llama 3 8B that are kernels of blocks, and one vocabulary."""
  block = 4096 * 128 * (32 + 8 + 8 + 32) + 3 * 4096 * 14336
  return 32 * block, 128256 * 4096


def test_memory_is_the_arithmetic(program):
  """float32 policy and two moments, bfloat16 reference, over 8 devices."""
  blocks, vocabulary = kernels()
  matrices, norms = blocks + 2 * vocabulary, 4096 * (2 * 32 + 1)
  found = estimate.resident(program)
  # Norms are on every device.
  policy = 4 * (matrices / 8 + norms) / GIB
  assert found["policy"] == pytest.approx(policy, rel=1e-9)
  assert found["moments"] == pytest.approx(2 * policy, rel=1e-6)
  half = (2 * matrices / 8 + 4 * norms) / GIB
  assert found["reference"] == pytest.approx(half, rel=1e-9)
  assert "value" not in found and "trunk" not in found


def test_useful_flops_are_six_and_two_a_token(program):
  blocks, vocabulary = kernels()
  tokens, scored = 64 * 2048, 64 * 1536
  once = blocks * tokens + vocabulary * scored
  assert estimate.model_flops(program) == pytest.approx(8 * once)


def test_rows_are_full(program):
  shape = program.shape
  assert (shape.rows, shape.row_length, shape.targets) == (64, 2048, 1536)
  assert (shape.prompts, shape.completions, shape.tokens) == (64, 2, 768)


def test_the_abstract_state_is_the_real_one(tmp_path, monkeypatch):
  """Shapes, types and shardings of a run's own TrainState and batch."""
  from tests import runs
  from xpo_jax import job, parallel
  from xpo_jax.data import packing

  monkeypatch.setenv("XPO_CACHE", str(tmp_path))
  for changes in (
    dict(reference__mode="live", mesh__fsdp=2, batch__row_length=256),
    dict(lora__rank=4, mesh__tensor=2),
    dict(model__trained_blocks=1),
  ):
    c = runs.make(tmp_path, **changes)
    real = job.build(c, jax.devices())
    state = job.init_state(real)
    sizes = real.objective.model.config
    monkeypatch.setitem(presets.PRESETS, "tiny", presets.Preset(config=sizes))
    found = abstract.program(c, jax.devices())
    for ours, theirs in ((found.state, state), (found.frozen, real.frozen)):
      same = lambda a, b: (
        (a.shape, a.dtype, a.sharding.spec)
        == (
          b.shape,
          b.dtype,
          b.sharding.spec,
        )
      )
      assert jax.tree.all(jax.tree.map(same, ours, theirs)), changes
    batch = packing.pack_step(
      real.train.groups,
      real.plan,
      0,
      real.train.kind,
      columns=real.train.columns,
      trunk=real.train.trunk,
    )
    batch = parallel.put_batch(real.mesh, batch)
    kinds = lambda tree: jax.tree.map(lambda x: (x.ndim, x.dtype), tree)
    assert kinds(found.batch.replace(feedback_kind=batch.feedback_kind)) == (
      kinds(batch)
    )


def test_the_compilers_own_words_about_memory():
  pod = topologies.get("v5e-16")
  oom = RuntimeError(
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory "
    "in memory space hbm. Used 17.20G of 15.75G hbm. Exceeded by 1.45G."
  )
  error = estimate._too_big(oom, pod)
  assert error.code == Exit.STORAGE
  assert "v5e-16: the step does not fit: needs 17.20 of 15.75 GiB" in str(error)
  other = estimate._too_big(RuntimeError("INTERNAL: no\nmore"), pod)
  assert "refused: INTERNAL: no" in str(other) and "\n" not in str(other)


@pytest.mark.parametrize(
  "changes, words",
  [
    (dict(batch__row_length=1280), "does not hold a prompt and its 2"),
    (dict(model__source="nowhere"), "nowhere"),
    (dict(batch__prompts=63), "batch.prompts=63 is no multiple of 8"),
  ],
)
def test_what_cannot_be_compiled_is_said_before(changes, words):
  with pytest.raises(XpoError) as error:
    abstract.program(chosen(**changes), jax.devices())
  assert words in str(error.value)


def test_sizes_alone_cannot_be_trained():
  with pytest.raises(XpoError, match="names sizes for `xpo compile`"):
    placement.load_policy(chosen(), [])


SHALLOW = """
import dataclasses, json, sys
from xpo_jax.aot import report, topologies
from xpo_jax.models import presets
from tests.aot.estimate_test import chosen
pod = topologies.get(sys.argv[1])
topologies.prepare(pod)
sizes = dataclasses.replace(presets.SIZES["llama8b"], layers=2)
presets.PRESETS["llama8b"] = presets.Preset(config=sizes)
e = report.compile_for(chosen(reference__mode="live"), pod)
report.show(e)
names = "needed flops cycle_seconds matrix_seconds link_seconds traffic".split()
print(json.dumps({name: getattr(e, name) for name in names}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  "pod, most", [("v5e-16", 15.75), ("v5p-128", 95.73), ("h100-8", 79.1)]
)
def test_a_pods_compiler_takes_the_real_step(pod, most, root):
  """8B wide, two layers deep, live reference; in a process of its own."""
  done = subprocess.run(
    [sys.executable, "-c", SHALLOW, pod],
    capture_output=True,
    text=True,
    cwd=root,
    env=os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(root)},
  )
  assert done.returncode == 0, done.stderr[-2000:]
  e = json.loads(done.stdout.splitlines()[-1])
  assert 1 < e["needed"] < most
  rows = 64 // topologies.get(pod).devices
  blocks, vocabulary = kernels()
  once = blocks / 16 * rows * 2048 + vocabulary * rows * 1536
  # Forward, its recomputation, two products backward; one reference forward.
  assert e["flops"] == pytest.approx(2 * 5 * once, rel=0.25)
  # Every kernel of the blocks is gathered at least once, in bfloat16.
  moved = sum(sent for _, _, sent in e["traffic"].values()) * 1e9
  assert moved > blocks / 16 * 2
  assert e["link_seconds"] > 0
  if pod != "h100-8":
    assert e["cycle_seconds"] > e["matrix_seconds"] > 0
    assert "most expensive instructions" in done.stdout
  assert "estimates, nothing was run" in done.stdout


def test_bytes_follow_the_sharding():
  mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
  spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
  leaf = jax.ShapeDtypeStruct((8, 3), np.float32, sharding=spec)
  assert estimate.bytes_a_device({"a": leaf, "b": leaf}) == 2 * 2 * 3 * 4
