"""Unread leaves: what is read from files, and how much."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from tests.models.weights import tiny_families as tiny
from xpo_jax import parallel
from xpo_jax.models import model as lm
from xpo_jax.models.model import Model
from xpo_jax.models.weights import names, safetensors_folder
from xpo_jax.models.weights.families import rows_of


class Reader:
  """Tensors in memory that are read like files; counts what is read."""

  def __init__(self, tensors):
    self.tensors, self.read, self.largest = tensors, 0, 0

  def __call__(self, name, part):
    value = self.tensors[name][part]
    self.read += value.nbytes
    self.largest = max(self.largest, value.nbytes)
    return value.copy()


def opened(root, case):
  """(model, reader, unread tree, the same tree read by the folder)."""
  golden = tiny.golden()["cases"][case]
  folder = tiny.write(root / case, case, golden["config"], golden["shapes"])
  config, whole, _ = safetensors_folder.load_folder(folder)
  reader = Reader(tiny.tensors(case, golden["shapes"], tiny.layers(case)))
  tree = names.tree(reader, rows_of(config), config)
  return Model(config), reader, tree, whole


@pytest.mark.parametrize("case", ["llama", "gpt2", "gpt_neox"])
def test_each_device_reads_its_part_and_no_more(case, tmp_path):
  model, reader, tree, whole = opened(tmp_path, case)
  specs = lm.specs(model)
  mesh = parallel.make_mesh(1, 2, 2, jax.devices()[:4])
  if model.config.vocab_size % 2:  # 67 tokens: not over the tensor axis
    for path in (("embed", "embedding"), ("head", "kernel")):
      if path[0] in specs:
        old = specs[path[0]][path[1]]
        new = P(*(None if a == "vocab" else a for a in old))
        specs[path[0]][path[1]] = new
  put = parallel.put_params(mesh, tree, specs)
  jax.tree.map(np.testing.assert_array_equal, put, whole)
  total = sum(x.nbytes for x in jax.tree.leaves(whole))
  parts = sum(
    shard.data.nbytes
    for x in jax.tree.leaves(put)
    for shard in x.addressable_shards
  )
  assert parts < 2.2 * total, "most is split in four"
  # GPT-2 joins query, key and value outside of the heads: their rows of all
  # heads are read for a part of them.
  limit = {"gpt2": 1.4}.get(case, 1.0)
  joined = 3 if case == "gpt_neox" else 1  # read for query, key and value
  assert reader.read <= joined * limit * parts
  if case == "llama":
    # Norms are on every device, and read once for all.
    assert 0.97 * parts < reader.read <= parts
    largest = max(x.nbytes for x in reader.tensors.values())
    assert reader.largest <= largest / 2


def test_slices_of_slices_read_nothing_until_asked(tmp_path):
  _, reader, tree, whole = opened(tmp_path, "llama")
  leaf, value = (t["blocks"]["attention"]["query"] for t in (tree, whole))
  part = leaf[1:][0:2, 4:20, 1:3][:1, :, :, 5:9]
  assert reader.read == 0
  assert part.shape == (1, 16, 2, 4) and part.ndim == 4 and part.size == 128
  assert part.dtype == np.float32
  np.testing.assert_array_equal(part, value[1:2, 4:20, 1:3, 5:9])
  half = part.astype("bfloat16")
  assert half.dtype == np.asarray(half).dtype == jnp.bfloat16
  np.testing.assert_array_equal(half, np.asarray(part).astype(jnp.bfloat16))
  trunk, top = lm.split(tree, 2)
  np.testing.assert_array_equal(top["blocks"]["attention"]["query"], value[2:])
  np.testing.assert_array_equal(
    trunk["blocks"]["attention"]["query"], value[:2]
  )
