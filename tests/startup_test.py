"""The checks before step 1 that only read the data."""

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
