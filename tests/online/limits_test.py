"""When a run ends before its last step."""

import pytest

from xpo_jax.online import limits


def history(*pairs, kl=1.0):
  """Evaluations of (reward, gold)."""
  return [{"reward": r, "gold": g, "kl/k1": kl} for r, g in pairs]


def test_a_budget_of_nats():
  far = [{"reward": 1.0, "kl/k1": 9.0}, {"reward": 1.0, "kl/k1": 3.01}]
  assert limits.reached(far, 3.0, 0) == (
    "kl_budget: 3.01 nats a sample exceed 3"
  )
  assert (
    limits.reached(far, 3.01, 0) == ""
  )  # the last one counts, and may equal
  assert limits.reached(far, 0.0, 0) == ""
  assert limits.reached([{"reward": 1.0}], 1.0, 0) == ""  # no reference
  assert limits.reached([], 1.0, 1) == ""


# Gold must fall in each of the last two steps, and the reward in none.
@pytest.mark.parametrize(
  "pairs, ends",
  [
    ([(0, 3), (1, 2), (2, 1)], True),
    ([(0, 9), (0, 3), (1, 2), (2, 1)], True),
    ([(0, 3), (0, 2), (0, 1)], True),  # a reward that stands still
    ([(1, 2), (2, 1)], False),  # too early to say
    ([(0, 3), (1, 2), (2, 2)], False),  # gold did not fall the last time
    ([(0, 1), (1, 2), (2, 1)], False),  # nor the time before
    ([(0, 3), (2, 2), (1, 1)], False),  # both fell: not over-optimised
  ],
)
def test_patience(pairs, ends):
  found = limits.reached(history(*pairs), 0.0, 2)
  assert found == (
    "patience: gold fell 2 times while the reward rose" if ends else ""
  )
  assert limits.reached(history(*pairs), 0.0, 0) == ""


def test_both_limits_may_be_set():
  pairs = [(0, 3), (1, 2), (2, 1)]
  found = limits.reached(history(*pairs, kl=5.0), 4.0, 2)
  assert found.startswith("kl_budget")
  assert limits.reached(history(*pairs, kl=4.0), 4.0, 2).startswith("patience")
