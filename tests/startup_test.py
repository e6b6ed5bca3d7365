"""The checks before step 1: what the data say, and how gaps are judged."""

import types

import numpy as np
import pytest

from xpo_jax import startup

BOS, END = 1, 2


@pytest.mark.parametrize(
  "prompt, wrong",
  [
    ([BOS, 5, 6], 0),
    # As Llama 2 writes a second turn.
    ([BOS, 5, END, BOS, 6], 0),
    ([5, BOS, 6], 1),
    ([BOS, BOS, 5], 1),
    ([5, 6], 1),
  ],
)
def test_t5_prompts_begin_with_one_bos(prompt, wrong):
  group = types.SimpleNamespace(
    prompt=np.array(prompt), completions=(np.array([7, END]),), ended=(True,)
  )
  job = types.SimpleNamespace(
    tokenizer=types.SimpleNamespace(bos_id=BOS),
    train=types.SimpleNamespace(groups=[group]),
  )
  rows = {
    name: (count, fine) for name, count, _, fine in startup._data_rows(job)
  }
  assert rows["prompts not begun by one BOS"] == (wrong, not wrong)
  assert rows["completions ending in exactly one EOS"] == (1, True)


@pytest.mark.parametrize(
  "exact, gaps, value, fine",
  [
    (True, [0, 5e-5], 5e-5, True),
    (True, [0, 2e-4], 2e-4, False),
    (False, [0.16, 0.0], 0.08, True),  # one token apart is how bfloat16 is
    (False, [0.16, 0.04], 0.1, False),  # a position late
  ],
)
def test_the_largest_gap_counts_or_the_mean(exact, gaps, value, fine):
  gaps = np.array([[*gaps, 9.0]])
  mask = np.array([[True, True, False]])
  name, found, _, good = startup._gap_row("a - b", gaps, mask, exact)
  assert name == ("|a - b| log-prob" if exact else "mean |a - b| log-prob")
  assert found == pytest.approx(value) and good == fine


@pytest.mark.parametrize("exact", [True, False])
def test_no_token_is_no_gap_and_nan_fails(exact):
  gaps = np.array([[1.0, np.nan]])
  none = startup._gap_row("a - b", gaps, np.zeros((1, 2), bool), exact)
  assert none[1] == 0 and none[3]
  assert not startup._gap_row("a - b", gaps, gaps != 1, exact)[3]
