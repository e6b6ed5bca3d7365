"""Bytes a device by model: sharded parts count once, copies in full."""

import jax
import jax.numpy as jnp
import numpy as np

from tests import tiny
from xpo_jax import parallel, placement_table
from xpo_jax.trio import Frozen
from xpo_jax.types import TrainState


def test_rows_name_what_is_there():
  one = jnp.ones((4, 8))
  state = TrainState(
    step=jnp.zeros(()),
    params={"policy": {"top": one}, "value": {"top": one, "head": one[0]}},
    opt_state=(one, one),
    key=jax.random.key(0),
    method_state=None,
    skipped=jnp.zeros(()),
  )
  found = placement_table.rows(
    placement_table.models(state, Frozen(reference={"a": one.astype("f2")}))
  )
  assert found == [
    ("policy", "32", "0.0"),
    ("value", "40", "0.0"),
    ("optimizer", "64", "0.0"),
    ("reference", "32", "0.0"),
  ]
  assert placement_table.device_bytes(state.params["value"]) == 40 * 4


def test_a_sharded_array_counts_its_part():
  devices = np.array(jax.devices())
  mesh = parallel.make_mesh(1, len(devices), 1, devices=devices)
  x = parallel.put_rows(mesh, np.ones((len(devices) * 2, 16), np.float32))
  assert placement_table.device_bytes({"x": x}) == 2 * 16 * 4
  whole = jax.device_put(np.ones((3, 5), np.float32), parallel.replicated(mesh))
  assert placement_table.device_bytes([x, whole]) == 2 * 16 * 4 + 60


def test_show_prints_a_table(capsys):
  placement_table.show({"policy": tiny.policy()["policy"], "value": None})
  out = capsys.readouterr().out
  assert "MB a device" in out and "policy" in out and "value" not in out
