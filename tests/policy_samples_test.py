"""Prompts by each policy's own template."""

import dataclasses
import types
from typing import NamedTuple

import numpy as np
import pytest

from xpo_jax import policy_samples
from xpo_jax.data.records import Group, Message
from xpo_jax.models.weights.tokenizer import byte_tokenizer
from xpo_jax.types import Feedback


class Samples(NamedTuple):
  """What is read of the sampler's answer."""

  tokens: np.ndarray
  mask: np.ndarray
  ended: np.ndarray


@pytest.mark.parametrize("trained, text", [("plain", "Hi"), ("", "\nHi")])
def test_auto_is_each_policy_s_own_template(tmp_path, trained, text):
  """Without a word of its training, a policy with a chat template chats."""
  asked = []

  class Policy:
    tokenizer = dataclasses.replace(
      byte_tokenizer(), trained_with=trained, eos_id=258
    )

    def spread(self):
      return self

    def sample(self, ids, *_, end_id, **__):
      asked.append((self.tokenizer.decode(ids[0]), end_id))
      return Samples(
        tokens=np.zeros((1, 1, 1), int),
        mask=np.ones((1, 1, 1), bool),
        ended=np.ones((1, 1), bool),
      ), None

  settings = types.SimpleNamespace(
    template="auto",
    prompts_at_once=1,
    max_new_tokens=1,
    temperature=1.0,
    top_p=1.0,
    seed=0,
    completions=1,
  )
  group = Group("f:1", "Hi", (), (), Feedback.DEMONSTRATION)
  policy_samples.sample_policy("p", Policy(), [group], settings, tmp_path)
  ((prompt, end),) = asked
  assert prompt.removeprefix("user").removesuffix("\nassistant\n") == text
  assert end == (258 if trained == "plain" else 256)


def test_prompts_as_one_text():
  turns = (Message("user", "Hi"), Message("assistant", "Yes?"))
  assert policy_samples.shown(turns) == "user: Hi\nassistant: Yes?"
  assert policy_samples.shown("Film:") == "Film:"
