"""What process 0 does, and what of it comes to the others."""

import json

import numpy as np
import pytest

from xpo_jax import hosts
from xpo_jax.errors import (
  Exit,
  XpoError,
  checkpoint_error,
  storage_error,
  usage_error,
)


class Wire:
  """Stands for the broadcast: what process 0 sent, the others receive."""

  def __init__(self, monkeypatch):
    self.sent, self.number = [], 0
    monkeypatch.setattr(hosts.jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts.jax, "process_index", lambda: self.number)
    monkeypatch.setattr(
      hosts.multihost_utils, "broadcast_one_to_all", self._send
    )

  def _send(self, x):
    x = np.array(x)
    if self.number == 0:
      self.sent.append(x)
      return x
    found = self._left.pop(0)
    assert (found.shape, found.dtype) == (x.shape, x.dtype)
    return found

  def on(self, number, call):
    self.number, self._left = number, list(self.sent)
    out = call()
    assert number == 0 or not self._left
    return out


@pytest.fixture
def wire(monkeypatch):
  return Wire(monkeypatch)


def never():
  raise AssertionError("process 0 alone was to be asked")


def test_one_process_is_not_bothered(monkeypatch):
  monkeypatch.setattr(hosts, "say", never)
  thing = object()
  assert hosts.first(lambda: thing) is thing
  with pytest.raises(XpoError, match="bad") as error:
    hosts.first(lambda: raising(usage_error("bad")))
  assert not error.value.shared


def test_bytes_through_the_real_broadcast():
  """Of one process: lengths around the room's powers of two."""
  for size in (0, 1, 2, 2**16 - 1, 2**16, 2**16 + 1, 3 * 2**16):
    told = np.random.default_rng(size).bytes(size)
    assert hosts.say(told) == told


@pytest.mark.parametrize("size", [0, 7, 2**16, 2**16 + 1, 150_000])
def test_all_get_the_same_bytes(wire, size):
  told = np.random.default_rng(0).bytes(size)
  assert wire.on(0, lambda: hosts.say(told)) == told
  assert wire.on(1, lambda: hosts.say(b"")) == told
  assert wire.on(1, lambda: hosts.say(b"another")) == told
  length, whole = wire.sent
  assert length == size and whole.nbytes == max(
    2**16, 2 ** int(np.ceil(np.log2(max(1, size))))
  )


def test_a_value_is_made_once_and_the_same_to_the_bit(wire):
  noise = np.random.default_rng(0)
  value = {
    "numbers": (noise.normal(size=50) * 10.0 ** noise.integers(-300, 300)),
    "none": None,
    "text": "é\ud800\n",
  }
  value["numbers"] = value["numbers"].tolist() + [-0.0, 5e-324]
  mine = wire.on(0, lambda: hosts.first(lambda: value))
  other = wire.on(1, lambda: hosts.first(never))
  assert mine == other == value
  assert json.dumps(other) == json.dumps(value)


def raising(error):
  raise error


@pytest.mark.parametrize(
  "error, code, words",
  [
    (usage_error("judge: no key"), Exit.USAGE, "judge: no key"),
    (checkpoint_error("a:1: other"), Exit.CHECKPOINT, "a:1: other"),
    (storage_error("no answer"), Exit.STORAGE, "no answer"),
    (OSError(28, "No space left", "/a/b"), Exit.STORAGE, "/a/b: No space left"),
    (TimeoutError("too late"), Exit.STORAGE, "too late"),
  ],
)
def test_an_error_of_one_is_everybodys(wire, error, code, words):
  for number, make in ((0, lambda: raising(error)), (1, never)):
    with pytest.raises(XpoError) as caught:
      wire.on(number, lambda make=make: hosts.first(make))
    assert str(caught.value) == words and caught.value.code == code
    assert caught.value.shared
    assert caught.value.__cause__ is (None if number else error)


@pytest.mark.parametrize("kind", [ZeroDivisionError, KeyboardInterrupt])
def test_what_is_no_users_error_is_told_to_nobody(wire, kind):
  """The process ends, and the others learn of it by its silence."""
  with pytest.raises(kind):
    wire.on(0, lambda: hosts.first(lambda: raising(kind())))
  assert wire.sent == []
