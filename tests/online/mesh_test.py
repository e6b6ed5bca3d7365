"""A rollout and its update, however they are shared out, are the same.

By plain gradient descent: what Adam does to a gradient of nearly 0 depends on
its last bits, and the second rollout would show it.
"""

import jax
import numpy as np
import pytest

from tests import runs
from tests.online import loop_test
from xpo_jax import train

pytestmark = pytest.mark.slow  # all programs once a mesh
CONFIG = loop_test.ONE | {
  "rollout__completions": 2,
  "rollout__slots": 3,
  "data__eval_source": "",
  "train__steps": 2,
  "optimizer__name": "sgd",
  "optimizer__learning_rate": 1.0,
}


def started(folder, count, **mesh):
  config = runs.make(folder, "rloo", **CONFIG | mesh)
  train.run(config, folder / "run", jax.devices()[:count])
  run = folder / "run"
  steps = [line for line in runs.lines(run) if "loss" in line]
  return [loop_test.texts(run, n) for n in range(2)], steps


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XPO_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield started(tmp_path_factory.mktemp("alone"), 1)


@pytest.mark.parametrize(
  "shape, more",
  [
    ((8, 1, 1), {}),
    ((2, 4, 1), {}),
    ((2, 2, 2), {}),
    ((1, 1, 1), {"batch__microbatches": 4}),
    ((1, 1, 1), {"batch__row_length": 512, "rollout__slots": 0}),
  ],
)
def test_it_is_the_same_run(alone, tmp_path, shape, more):
  """The second rollout is drawn by what the first update has made."""
  axes = dict(zip(("data", "fsdp", "tensor"), shape, strict=True))
  mesh = {f"mesh__{name}": size for name, size in axes.items()}
  texts, steps = started(tmp_path, int(np.prod(shape)), **mesh, **more)
  wanted, numbers = alone
  assert texts == wanted
  assert abs(numbers[1]["kl/k1"]) > 1e-3  # it has moved
  for one, other in zip(steps, numbers, strict=True):
    assert one["sampler/gap"] < 1e-5
    rtol = 1e-4 if shape[2] > 1 else 1e-5
    names = ("loss", "kl/k1", "rewards/judge", "optimizer/gradient_norm")
    for name in names:
      np.testing.assert_allclose(
        one[name], other[name], rtol=rtol, atol=1e-5, err_msg=name
      )
