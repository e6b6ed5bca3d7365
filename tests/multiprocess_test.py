"""Two processes (gloo on CPU) train as one does."""

import json
import socket

import numpy as np
import pytest

from tests import runs
from xpo_jax import checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


def start_two(args, cache, devices=2):
  """The same command as processes 0 and 1, with so many devices each."""
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  return [
    runs.spawn(
      *args,
      env=runs.environment(
        cache,
        JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
        JAX_NUM_PROCESSES="2",
        JAX_PROCESS_ID=str(number),
        XLA_FLAGS=f"--xla_force_host_platform_device_count={devices}",
      ),
    )
    for number in range(2)
  ]


def finish(processes):
  try:
    return [runs.finish(process) for process in processes]
  finally:
    for process in processes:
      process.kill()


def command(folder, name, **changes):
  path = runs.save(runs.make(folder, **changes), folder / f"{name}.json")
  return ["train", f"--config={path}", f"--workdir={folder / name}"]


def same(run, other):
  lines, expected = runs.lines(run), runs.lines(other)
  assert [x["step"] for x in lines] == [x["step"] for x in expected]
  for line, wanted in zip(lines, expected, strict=True):
    assert line.keys() == wanted.keys()
    if line["step"] == 1:  # policy = reference: the winner is rounding's
      wanted.pop("rewards/accuracy")
    for name, value in wanted.items():
      assert line[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
      assert name != "loss" or abs(line[name] - value) < 1e-5
  (step, found), (_, numbers) = runs.bits(run), runs.bits(other)
  assert step == 6
  for name, value in numbers.items():
    if name.startswith("['params']"):
      np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)


def test_two_processes_are_one(tmp_path, cache):
  # SGD: Adam turns the rounding of a gradient near 0 into a whole step.
  plain = dict(optimizer__name="sgd", optimizer__learning_rate=0.01)
  code, _, err = runs.xpo(
    *command(tmp_path, "one", **plain), env=runs.environment(cache)
  )
  assert code == 0, err
  meshed = dict(mesh__data=2, mesh__fsdp=2, **plain)
  done = finish(start_two(command(tmp_path, "two", **meshed), cache))
  assert [code for code, *_ in done] == [0, 0], [err for *_, err in done]
  same(tmp_path / "two", tmp_path / "one")
  # Only the first one writes and reports.
  assert "Checks before step 1" in done[0][1]
  for name in ("config.json", "model.json", "summary.json", "held_out.jsonl"):
    assert (tmp_path / "two" / name).is_file()
  assert not list((tmp_path / "two").glob("*.part"))
  events = list((tmp_path / "two" / "tensorboard").iterdir())
  assert len(events) == 1
  summaries = [
    json.loads((tmp_path / name / "summary.json").read_text())
    for name in ("one", "two")
  ]
  assert summaries[1]["held_out"] == pytest.approx(
    summaries[0]["held_out"], rel=1e-4, abs=1e-5
  )


def test_a_held_lock_turns_both_away(tmp_path, cache):
  with checkpoint.locked(tmp_path / "run"):
    done = finish(start_two(command(tmp_path, "run"), cache, devices=1))
  assert [code for code, *_ in done] == [73, 73], [err for *_, err in done]
