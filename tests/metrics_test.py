import json
import math

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from xpo_jax import metrics
from xpo_jax.errors import Exit, XpoError


def write(folder, steps, **options):
  writer = metrics.make_writer(folder, **options)
  for step in steps:
    writer.write(step, {"loss": step / 2})
  writer.close()


def steps_of(folder):
  return [step for step, _ in metrics.read_metrics(folder)["loss"]]


def test_reads_back_what_was_written(tmp_path):
  writer = metrics.make_writer(tmp_path / "new" / "run")
  writer.write(1, {"loss": 0.5, "rewards/margin": np.float32(0.25)})
  writer.write(np.int64(2), {"loss": 0.25})
  writer.close()
  assert metrics.read_metrics(tmp_path / "new" / "run") == {
    "loss": [(1, 0.5), (2, 0.25)],
    "rewards/margin": [(1, 0.25)],
  }


def test_a_line_is_on_disk_before_close(tmp_path):
  writer = metrics.make_writer(tmp_path)
  writer.write(1, {"loss": 0.5})
  assert steps_of(tmp_path) == [1]
  writer.close()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite_is_null_and_reads_as_nan(tmp_path, value):
  writer = metrics.make_writer(tmp_path)
  writer.write(3, {"loss": value, "grad": 1.0})
  writer.close()
  line = (tmp_path / "metrics.jsonl").read_text()
  assert json.loads(line) == {"step": 3, "loss": None, "grad": 1.0}
  [(step, read)] = metrics.read_metrics(tmp_path)["loss"]
  assert step == 3 and math.isnan(read)


def test_truncate_cuts_the_resumed_step_and_later(tmp_path):
  write(tmp_path, [1, 2, 3, 4])
  assert metrics.truncate(tmp_path, 3) == 2
  assert steps_of(tmp_path) == [1, 2]
  assert metrics.truncate(tmp_path, 3) == 0
  assert metrics.truncate(tmp_path / "nowhere", 3) == 0


def test_resume_gives_every_step_once(tmp_path):
  write(tmp_path, [1, 2, 3, 4])
  write(tmp_path, [3, 4, 5], resume_step=3)
  assert steps_of(tmp_path) == [1, 2, 3, 4, 5]


def test_a_torn_line_does_not_spoil_the_next_one(tmp_path):
  write(tmp_path, [1, 2])
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 3, "lo')
  assert steps_of(tmp_path) == [1, 2]
  write(tmp_path, [3])
  assert steps_of(tmp_path) == [1, 2, 3]


def test_no_metrics_is_empty(tmp_path):
  assert metrics.read_metrics(tmp_path) == {}


def test_tensorboard_gets_finite_scalars_and_the_purge_step(tmp_path):
  writer = metrics.make_writer(tmp_path, resume_step=7)
  writer.write(7, {"loss": 0.5, "bad": math.nan})
  writer.close()
  events = read_events(tmp_path / "tensorboard")
  scalars = {
    (v.tag, e.step): v.simple_value for e in events for v in e.summary.value
  }
  assert scalars == {("loss", 7): 0.5}
  assert 7 in [e.step for e in events if e.HasField("session_log")]


def read_events(folder):
  """The records: length u64, crc u32, bytes, crc u32."""
  events = []
  for path in sorted(folder.iterdir()):
    data = path.read_bytes()
    while data:
      size = int.from_bytes(data[:8], "little")
      events.append(event_pb2.Event.FromString(data[12 : 12 + size]))
      data = data[16 + size :]
  return events


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
  (tmp_path / "run").write_text("")
  with pytest.raises(XpoError, match="cannot write metrics") as caught:
    metrics.make_writer(tmp_path / "run")
  assert caught.value.code == Exit.STORAGE
  assert "\n" not in str(caught.value)
