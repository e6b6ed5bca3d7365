"""Checkpoints of a small state: exact, bounded in number, one-line errors."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny
from xpo_jax import checkpoint
from xpo_jax.data import loader, planning
from xpo_jax.errors import XpoError
from xpo_jax.types import TrainState

META = {"data": "d1", "tokenizer": "t1"}


def state(seed=0, steps=0, width=3, method_state=None):
  """A state of odd values: tiny, huge, -0.0 and a key of its own."""
  noise = np.random.default_rng(seed)
  kernel = noise.normal(size=(width, 2)).astype(np.float32)
  kernel[0] = [1e-42, -0.0]
  params = {"policy": {"top": {"kernel": jnp.asarray(kernel)}}}
  tx = optax.adamw(0.1)
  moments = tx.init(params)
  for _ in range(steps):
    _, moments = tx.update(params, moments, params)
  return TrainState(
    step=jnp.int32(steps),
    params=params,
    opt_state=moments,
    key=jax.random.fold_in(jax.random.key(seed), 9),
    method_state=method_state,
    skipped=jnp.int32(steps),
  )


def raw(x):
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    x = jax.random.key_data(x)
  return np.asarray(x).tobytes()


def batches():
  members = tiny.members(tiny.objective("dpo"), 8)
  plan = planning.plan(
    planning.group_lengths(members), prompts=2, row_length=32, steps=9
  )
  return loader.make_loader(members, plan, members[0].kind)


def test_what_comes_back_is_what_was_saved(tmp_path):
  first, statistics = batches(), {"z0": jnp.float32(0.1)}
  for _ in range(3):
    next(first)
  saved = state(1, steps=3, method_state=statistics)
  with checkpoint.open_checkpoints(tmp_path, 2) as manager:
    checkpoint.save(manager, saved, first.get_state(), META)
  other = state(2, method_state={"z0": jnp.float32(7.0)})
  with checkpoint.open_checkpoints(tmp_path, 2) as manager:
    found, position, meta = checkpoint.restore(manager, other)
  assert meta == META and jax.tree.structure(found) == jax.tree.structure(saved)
  pairs = zip(jax.tree.leaves(found), jax.tree.leaves(saved), strict=True)
  assert all(raw(a) == raw(b) and a.dtype == b.dtype for a, b in pairs)
  assert jax.random.bits(found.key) == jax.random.bits(saved.key)
  second = batches()
  second.set_state(position)
  for (a, left), (b, right) in zip(first, second, strict=True):
    assert a == b
    np.testing.assert_array_equal(left.tokens, right.tokens)
  params = checkpoint.restore_params(tmp_path)
  kernel = saved.params["policy"]["top"]["kernel"]
  assert raw(params["policy"]["top"]["kernel"]) == raw(kernel)


def test_only_the_newest_are_kept(tmp_path):
  with checkpoint.open_checkpoints(tmp_path, 2) as manager:
    assert checkpoint.restore(manager, state()) is None
    for step in (2, 10, 9, 30):
      checkpoint.save(manager, state(steps=step), {}, META)
  assert checkpoint.saved_steps(tmp_path) == [10, 30]
  with checkpoint.open_checkpoints(tmp_path, 2) as manager:
    assert int(checkpoint.restore(manager, state())[0].step) == 30


def test_an_accepted_save_survives_an_error(tmp_path):
  with pytest.raises(ValueError, match="of the loop"):
    with checkpoint.open_checkpoints(tmp_path, 2) as manager:
      checkpoint.save(manager, state(steps=4), {}, META)
      raise ValueError("of the loop")
  assert checkpoint.saved_steps(tmp_path) == [4]


@pytest.mark.parametrize(
  "changes, words",
  [
    (dict(width=4), "mu/policy/top/kernel is (3, 2) there, (4, 2) here"),
    (
      dict(method_state={"z0": np.float32(0)}),
      "method_state/z0 is absent there, () here",
    ),
  ],
)
def test_a_checkpoint_that_does_not_fit(tmp_path, changes, words):
  like = state(**changes)
  with checkpoint.open_checkpoints(tmp_path, 2) as manager:
    checkpoint.save(manager, state(steps=4), {}, META)
  with checkpoint.open_checkpoints(tmp_path, 2) as manager:
    with pytest.raises(XpoError, match="/4: does not fit this run") as error:
      checkpoint.restore(manager, like)
  assert error.value.code == 66 and "\n" not in str(error.value)
  assert words in str(error.value) and "new --workdir" in str(error.value)


def test_nothing_to_restore(tmp_path):
  with pytest.raises(XpoError, match="no checkpoint in it") as error:
    checkpoint.restore_params(tmp_path)
  assert error.value.code == 66
  broken = tmp_path / "checkpoints" / "7" / "state"
  broken.mkdir(parents=True)
  with pytest.raises(XpoError, match="7/state: unreadable") as error:
    checkpoint.restore_params(tmp_path)
  assert error.value.code == 66 and "\n" not in str(error.value)


def test_json_is_written_in_one_move(tmp_path, monkeypatch):
  path = tmp_path / "summary.json"
  checkpoint.write_json(path, {"b": 1, "a": [2]})
  assert path.read_text() == '{\n  "a": [\n    2\n  ],\n  "b": 1\n}\n'

  def torn(self, target):
    raise OSError("killed before the move")

  monkeypatch.setattr(type(path), "replace", torn)
  with pytest.raises(OSError):
    checkpoint.write_json(path, {"b": 2})
  assert json.loads(path.read_text()) == {"b": 1, "a": [2]}


def test_one_run_a_folder(tmp_path):
  folder = tmp_path / "deep" / "run"
  with checkpoint.locked(folder):
    with pytest.raises(XpoError, match="another process writes") as error:
      with checkpoint.locked(folder):
        raise AssertionError("two writers")
  assert error.value.code == 73
  with checkpoint.locked(folder):
    pass  # free again
