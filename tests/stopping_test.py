"""Signals: at once where nothing is to save, else after the step."""

import os
import signal
import threading

import pytest

from xpo_jax import stopping
from xpo_jax.errors import XpoError


def send(number):
  os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers():
  """Whatever happens, the handlers are those of before."""
  before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
  yield
  after = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
  assert after == before


def test_sigterm_ends_at_once_outside_of_steps():
  with pytest.raises(XpoError, match="stopped by SIGTERM; start") as error:
    with stopping.at_once():
      send(signal.SIGTERM)
      raise AssertionError("went on")
  assert error.value.code == 75


def test_a_signal_that_a_library_swallows_is_not_forgotten():
  with pytest.raises(XpoError, match="stopped by SIGTERM; start") as error:
    with stopping.at_once():
      with pytest.raises(KeyboardInterrupt):  # whoever catches everything
        send(signal.SIGTERM)
      with stopping.after_step() as asked:
        assert asked(1) == signal.SIGTERM
  assert error.value.code == 75
  with pytest.raises(XpoError, match="stopped by SIGTERM; start"):
    with stopping.at_once():
      with pytest.raises(KeyboardInterrupt):
        send(signal.SIGTERM)
  with stopping.at_once(), stopping.after_step() as asked:
    assert asked(1) == 0  # and then it is over


def test_other_errors_and_ctrl_c_pass_through():
  for kind in (KeyboardInterrupt, ValueError):
    with pytest.raises(kind):
      with stopping.at_once(), stopping.after_step():
        raise kind


def test_sigterm_waits_for_the_step():
  with pytest.raises(XpoError, match="saved at step 3 of 9; start") as error:
    with stopping.at_once(), stopping.after_step() as asked:
      assert asked(1) == 0
      send(signal.SIGTERM)
      send(signal.SIGTERM)  # an impatient scheduler
      assert asked(2) == signal.SIGTERM
      raise stopping.error(asked(3), "saved at step 3 of 9")
  assert error.value.code == 75


def test_the_first_ctrl_c_waits_and_the_second_does_not():
  with pytest.raises(KeyboardInterrupt, match="saved at step 1 of 9"):
    with stopping.at_once(), stopping.after_step() as asked:
      send(signal.SIGINT)
      assert asked(1) == signal.SIGINT
      raise stopping.error(asked(1), "saved at step 1 of 9")
  with pytest.raises(KeyboardInterrupt):
    with stopping.after_step() as asked:
      send(signal.SIGINT)
      send(signal.SIGINT)
      raise AssertionError("went on")


def test_a_thread_cannot_take_signals_and_needs_none():
  answers = []

  def work():
    with stopping.at_once(), stopping.after_step() as asked:
      answers.append(asked(1))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert answers == [0]
