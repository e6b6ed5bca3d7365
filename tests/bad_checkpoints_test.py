"""K1 to K12: checkpoints that are damaged, foreign or made to harm.

A run of two steps, 10 and 20; each case spoils a copy of it. Handled means:
step 20 is passed over, said, and step 10 is loaded to the bit.
"""

import json
import shutil

import jax
import jax.numpy as jnp
import pytest
import tensorstore

from tests.checkpoint_test import META, flip, largest, raw, state
from xpo_jax import checkpoint, sealing, stored
from xpo_jax.errors import Exit, XpoError


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
  """A run folder with the steps 10 and 20, never changed."""
  run = tmp_path_factory.mktemp("sound")
  with checkpoint.open_checkpoints(run, 9) as saver:
    for step in (10, 20):
      checkpoint.save(saver, state(step, steps=step), {"at": step}, META)
  return run


@pytest.fixture
def run(sound, tmp_path):
  """A copy to spoil."""
  return shutil.copytree(sound, tmp_path / "run")


def step_20(run):
  return run / "checkpoints" / "20"


def array_files(step):
  return largest(step / "state" / "ocdbt.process_0")


def k1(run):
  (run / "checkpoints" / "30").mkdir()


def k2(run):
  (step_20(run) / "state" / "_METADATA").write_bytes(b"")


def k3(run):
  (step_20(run) / "manifest.json").unlink()


def k4(run):
  shutil.rmtree(step_20(run) / "data")


def k5(run):
  flip(array_files(step_20(run)))


def k6(run):
  name = "state/manifest.ocdbt"
  other = run / "checkpoints" / "10"
  shutil.copyfile(other / name, step_20(run) / name)


def k12(run):
  path = array_files(step_20(run))
  path.rename(run / "elsewhere")
  path.symlink_to(run / "elsewhere")


HANDLED = {
  "k1 an empty folder named like a step": (k1, "30: has no manifest.json", 20),
  "k2 _METADATA is empty": (k2, "state/_METADATA has 0 bytes, not", 10),
  "k3 the manifest is gone": (k3, "20: has no manifest.json", 10),
  "k4 an item is gone": (k4, "data/commit_success.txt is gone", 10),
  "k5 one bit is flipped": (k5, "has changed (SHA-256)", 10),
  "k6 a file of another step": (k6, "state/manifest.ocdbt has", 10),
  "k12 a link inside": (k12, "is a link; links are not followed", 10),
}


@pytest.mark.parametrize("case", HANDLED)
def test_falls_back_to_the_newest_intact_step(run, capsys, case):
  spoil, words, left = HANDLED[case]
  spoil(run)
  with checkpoint.open_checkpoints(run, 9) as saver:
    found, position, _ = checkpoint.restore(saver, state())
  assert position == {"at": left}
  wanted = jax.tree.leaves(state(left, steps=left))
  for a, b in zip(jax.tree.leaves(found), wanted, strict=True):
    assert raw(a) == raw(b)
  (line,) = capsys.readouterr().out.splitlines()
  assert line.startswith("warning: ") and words in line
  assert line.endswith(f"; falling back to step {left}")


@pytest.mark.parametrize(
  "case", [c for c in HANDLED if not c.startswith("k1 ")]
)
def test_no_intact_step_is_an_error(run, case):
  shutil.rmtree(run / "checkpoints" / "10")
  (run / "checkpoints" / "10").mkdir()
  spoil, words, _ = HANDLED[case]
  if case.startswith("k6"):
    words, spoil = (
      "state/manifest.ocdbt",
      lambda r: flip(step_20(r) / "state" / "manifest.ocdbt"),
    )
  spoil(run)
  message = error(lambda: stored.restore_params(run))
  assert words in message and "no intact checkpoint is left" in message


def error(call) -> str:
  with pytest.raises(XpoError) as caught:
    call()
  assert caught.value.code == Exit.CHECKPOINT
  assert "\n" not in str(caught.value)
  return str(caught.value)


def restore(run, like):
  with checkpoint.open_checkpoints(run, 9) as saver:
    return checkpoint.restore(saver, like)


def renamed(like, name):
  top = {name: like.params["policy"]["top"]["kernel"]}
  return like.replace(params={"policy": {"top": top}})


UNFIT = {
  "k7 another shape": (
    lambda: state(width=4),
    "mu/policy/top/kernel is (3, 2) there, (4, 2) here",
  ),
  "k8 float32 asked as bfloat16": (
    lambda: cast(state(), jnp.bfloat16),
    "params/policy/top/kernel is float32(3, 2) there, bfloat16(3, 2) here",
  ),
  "k8 float32 asked as int32": (
    lambda: cast(state(), jnp.int32),
    "params/policy/top/kernel is float32(3, 2) there, int32(3, 2) here",
  ),
  "k9 a leaf more there": (
    lambda: renamed(state(), "other"),
    "params/policy/top/kernel is (3, 2) there, absent here",
  ),
  "k9 a leaf more here": (
    lambda: renamed(state(), "a"),
    "params/policy/top/a is absent there, (3, 2) here",
  ),
}


def cast(like, dtype):
  kernel = like.params["policy"]["top"]["kernel"].astype(dtype)
  like = like.replace(params={"policy": {"top": {"kernel": kernel}}})
  return like.replace(opt_state=state().opt_state)


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_is_never_cast(run, case):
  like, words = UNFIT[case]
  message = error(lambda: restore(run, like()))
  assert "20: does not fit this run: " in message and words in message


def test_k10_a_few_bytes_that_declare_gigabytes(run):
  """Sealed by whoever made them; refused before anything is allocated."""
  step = step_20(run)
  spec = {
    "driver": "zarr",
    "kvstore": {
      "driver": "ocdbt",
      "base": f"file://{step / 'state'}/",
      "path": "params.policy.top.kernel/",
    },
    "metadata": {
      "shape": [2**20, 2**20],  # 4 TiB
      "chunks": [2**10, 2**10],
      "dtype": "<f4",
      "compressor": None,
      "fill_value": None,
      "filters": None,
      "order": "C",
    },
  }
  tensorstore.open(spec, create=True, delete_existing=True).result()
  sealing.seal(step, 20)
  assert stored.choose(run) == 20, "its seal is right"
  message = error(lambda: stored.restore_params(run))
  assert "bytes that declare 4398046511104)" in message
  words = "kernel is (1048576, 1048576) there, (3, 2) here"
  assert words in error(lambda: restore(run, state()))


@pytest.mark.parametrize("which", ["10/../../../out", "../20", "/tmp", "-1"])
def test_k11_a_step_is_a_number_and_no_path(run, which):
  assert f"{which}: no step; {run} has 10, 20" in error(
    lambda: stored.choose(run, which)
  ).replace(f"{run / 'checkpoints' / which}: ", f"{which}: ")


def test_k11_an_item_outside_of_the_step(run):
  """A manifest that names files elsewhere, sealed again by its maker."""
  step, outside = step_20(run), run / "outside"
  outside.write_text("mine")
  body = json.loads((step / "manifest.json").read_text())
  del body["seal"]
  body["files"]["../../outside"] = {"bytes": 4, "sha256": "0" * 64}
  (step / "manifest.json").write_text(sealing._text(body))
  assert sealing.damage(step) == "../../outside is gone"
  assert outside.read_text() == "mine"
  assert stored.choose(run) == 10


def test_k12_a_step_that_is_a_link(run):
  shutil.move(step_20(run), run / "20")
  step_20(run).symlink_to(run / "20")
  assert stored.choose(run) == 10
  assert "is a link; a checkpoint is a folder" in error(
    lambda: stored.choose(run, "20")
  )
