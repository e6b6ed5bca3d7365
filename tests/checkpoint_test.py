"""Checkpoints of a small state: exact, few, and a damaged one is never used."""

import errno
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny
from xpo_jax import checkpoint, sealing, stored
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
  params = stored.restore_params(tmp_path)
  kernel = saved.params["policy"]["top"]["kernel"]
  assert raw(params["policy"]["top"]["kernel"]) == raw(kernel)


def test_only_the_newest_are_kept(tmp_path):
  with checkpoint.open_checkpoints(tmp_path, 2) as manager:
    assert checkpoint.restore(manager, state()) is None
    for step in (2, 9, 10, 30):
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
    stored.restore_params(tmp_path)
  assert error.value.code == 66
  # As an earlier version left it: no manifest.
  (tmp_path / "checkpoints" / "7" / "state").mkdir(parents=True)
  with pytest.raises(XpoError, match="7: has no manifest.json") as error:
    stored.restore_params(tmp_path)
  assert error.value.code == 66 and "\n" not in str(error.value)
  with checkpoint.open_checkpoints(tmp_path, 2) as manager:
    with pytest.raises(XpoError, match="no intact checkpoint is left") as error:
      checkpoint.restore(manager, state())
  assert error.value.code == 66
  assert (tmp_path / "checkpoints" / "7" / "state").is_dir()


def flip(path, place=20):
  """Turns one bit of a file over."""
  whole = bytearray(path.read_bytes())
  whole[place % len(whole)] ^= 1
  path.write_bytes(whole)


def largest(folder):
  files = [p for p in folder.rglob("*") if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


def test_a_damaged_step_is_passed_over_and_set_aside(tmp_path, capsys):
  folder = tmp_path / "checkpoints"
  with checkpoint.open_checkpoints(tmp_path, 3) as manager:
    for step in (10, 20, 30):
      checkpoint.save(manager, state(step, steps=step), {"at": step}, META)
  flip(largest(folder / "30" / "state" / "ocdbt.process_0"))
  (folder / "20" / "data" / "metadata").unlink()
  with checkpoint.open_checkpoints(tmp_path, 3) as manager:
    found, position, _ = checkpoint.restore(manager, state())
    assert position == {"at": 10} and int(found.step) == 10
    wanted = jax.tree.leaves(state(10, steps=10))
    for a, b in zip(jax.tree.leaves(found), wanted, strict=True):
      assert raw(a) == raw(b)
    checkpoint.save(manager, state(20, steps=20), {"at": 20}, META)
  out = capsys.readouterr().out
  assert "30: state/ocdbt.process_0/" in out and "has changed (SHA-256)" in out
  assert "20: data/metadata is gone; falling back to step 10" in out
  # The new 20 is in its place, the broken ones are kept for a look.
  assert checkpoint.saved_steps(tmp_path) == [10, 20]
  names = {p.name for p in folder.iterdir()}
  assert names == {"10", "20", "damaged-20", "damaged-30"}
  with checkpoint.open_checkpoints(tmp_path, 3) as manager:
    assert checkpoint.restore(manager, state())[1] == {"at": 20}


def test_the_best_stay_beside_the_newest(tmp_path):
  losses = {1: 0.1, 2: float("nan"), 3: None, 4: 0.3}
  for step, loss in losses.items():
    line = json.dumps({"step": step, "eval/loss": loss}).replace("NaN", "null")
    with open(tmp_path / "metrics.jsonl", "a") as f:
      f.write(line + "\n")
  with checkpoint.open_checkpoints(tmp_path, 1, 1) as manager:
    for step in losses:
      known = {k: v for k, v in losses.items() if k <= step}
      checkpoint.save(manager, state(step, steps=step), {}, META, known)
  assert checkpoint.saved_steps(tmp_path) == [1, 4]
  assert stored.choose(tmp_path) == 4 == stored.choose(tmp_path, "4")
  assert stored.choose(tmp_path, "best") == 1
  with pytest.raises(XpoError, match="3: has no manifest"):
    stored.choose(tmp_path, "3")
  with pytest.raises(XpoError, match="bset: no step; .* has 1, 4"):
    stored.choose(tmp_path, "bset")
  best = stored.restore_params(tmp_path, 1)["policy"]["top"]["kernel"]
  assert raw(best) == raw(state(1).params["policy"]["top"]["kernel"])


def failing(monkeypatch, times):
  """Lets the next seals fail as on a full disk; returns their number."""
  real, calls = sealing.seal, []

  def seal(folder, step):
    calls.append(step)
    if len(calls) <= times:
      raise OSError(errno.ENOSPC, "No space left on device")
    real(folder, step)

  monkeypatch.setattr(sealing, "seal", seal)
  return calls


def test_a_failed_save_is_tried_again(tmp_path, monkeypatch, capsys):
  calls = failing(monkeypatch, 2)
  with checkpoint.open_checkpoints(tmp_path, 2) as manager:
    checkpoint.save(manager, state(steps=4), {}, META)
    assert not manager.wait() and manager.poll()
    checkpoint.save(manager, state(steps=5), {}, META)
    assert not manager.wait()
    assert checkpoint.saved_steps(tmp_path) == []
    checkpoint.save(manager, state(steps=6), {}, META)
    assert manager.wait() and not manager.poll()
  assert calls == [4, 5, 6] and checkpoint.saved_steps(tmp_path) == [6]
  assert capsys.readouterr().out.count("No space left on device") == 2


def test_a_full_disk_ends_the_run_and_harms_nothing(tmp_path, monkeypatch):
  with checkpoint.open_checkpoints(tmp_path, 2) as manager:
    checkpoint.save(manager, state(steps=3), {}, META)
  failing(monkeypatch, 9)
  with pytest.raises(XpoError, match="No space left") as error:
    with checkpoint.open_checkpoints(tmp_path, 2) as manager:
      for step in (4, 5, 6):
        checkpoint.save(manager, state(steps=step), {}, META)
        manager.wait()
  assert error.value.code == 74 and "free space or" in str(error.value)
  with pytest.raises(XpoError, match="see the warning above") as error:
    with checkpoint.open_checkpoints(tmp_path, 2) as manager:
      checkpoint.save(manager, state(steps=4), {}, META)
  assert error.value.code == 74
  monkeypatch.undo()
  with checkpoint.open_checkpoints(tmp_path, 2) as manager:
    assert int(checkpoint.restore(manager, state())[0].step) == 3
  assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["3"]


def test_room_is_asked_for_first(tmp_path, monkeypatch):
  size = 4 * 6 * 3 + 4 * 3 + 8  # kernel and two moments; 3 counters; key
  disk = lambda free: lambda _: type("Disk", (), dict(total=9, free=free))
  with checkpoint.open_checkpoints(tmp_path, 2) as manager:
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", disk(2 * size))
    checkpoint.require_room(manager, state(), 2)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", disk(2 * size - 1))
    with pytest.raises(XpoError, match="must fit; free space") as error:
      checkpoint.require_room(manager, state(), 2)
  assert error.value.code == 74


def test_an_element_type_is_never_cast(tmp_path):
  with checkpoint.open_checkpoints(tmp_path, 2) as manager:
    checkpoint.save(manager, state(steps=4), {}, META)
    manager.wait()
    like = state()
    like = like.replace(skipped=jnp.float32(0))
    with pytest.raises(XpoError) as error:
      checkpoint.restore(manager, like)
  assert "skipped is int32() there, float32() here" in str(error.value)


def test_metadata_are_read_without_arrays(tmp_path):
  assert stored.read_meta(tmp_path) is None
  with checkpoint.open_checkpoints(tmp_path, 2) as manager:
    for step in (4, 5):
      checkpoint.save(manager, state(steps=step), {}, META | {"n": step})
  assert stored.read_meta(tmp_path) == META | {"n": 5}
  flip(tmp_path / "checkpoints" / "5" / "meta" / "metadata")
  assert stored.read_meta(tmp_path) == META | {"n": 4}


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


def test_one_run_a_folder(tmp_path, capsys):
  folder = tmp_path / "deep" / "run"
  with checkpoint.locked(folder):
    words = f"another process writes this run .process {os.getpid()} on "
    with pytest.raises(XpoError, match=words) as error:
      with checkpoint.locked(folder):
        raise AssertionError("two writers")
  assert error.value.code == 73
  with checkpoint.locked(folder):
    pass  # free again
  assert capsys.readouterr().out == ""
  # What a killed process leaves is taken over, and said.
  (folder / ".lock").write_text("process 1 on there since then")
  with checkpoint.locked(folder):
    out = capsys.readouterr().out
  assert "taken over from process 1 on there since then" in out
  assert (folder / ".lock").read_text() == ""
