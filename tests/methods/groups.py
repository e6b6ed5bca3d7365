"""What the tests of the GRPO family share: groups of samples, by hand."""

import functools

import jax
import numpy as np

from tests.methods import tokens as t
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs

R = np.array([1.0, 0.0, 0.0, 0.5])  # methods.md 14.1


@functools.cache
def _compiled(name, keywords):
  method = registry.get(name)
  settings = method.settings(dict(keywords))
  return jax.jit(lambda x: method.prepare(x, **settings))


def prepared(name: str, x: LossInputs, **keywords) -> LossInputs:
  return _compiled(name, tuple(sorted(keywords.items())))(x)


def advantages(name: str, rewards=R, present=None, **keywords) -> np.ndarray:
  """[K] of one group whose samples have two tokens each."""
  zero = np.zeros((1, len(rewards), 2))
  x = t.from_arrays(Feedback.SCORE, [rewards], policy_logps=zero)
  if present is not None:
    x = t.absent(x, *((0, k) for k, here in enumerate(present) if not here))
  column = np.asarray(prepared(name, x, **keywords).advantages)[0]
  t.close(column[:, 0], column[:, 1])  # the same on every token
  return column[:, 0]


# Two prompts, two samples each: 3, 1, 2, 3 tokens.
MASK = np.array([[[1, 1, 1], [1, 0, 0]], [[1, 1, 0], [1, 1, 1]]], bool)
LOGRATIO = np.array(
  [[[0.3, -0.1, 0.02], [-0.4, 9, 9]], [[0.05, 0.25, 9], [-0.3, 0.1, 0.6]]]
)
ADVANTAGES = np.array([[[1.2], [-1.2]], [[-0.7], [0.7]]]) * np.ones(3)
D = np.array(
  [[[0.1, -0.2, 0.3], [0.4, 9, 9]], [[-0.1, 0.2, 9], [0.0, 0.5, -0.6]]]
)  # log policy - log reference


def step(reference: bool = False) -> LossInputs:
  """One epoch's inputs, `advantages` already there."""
  policy = -1.0 - 0.1 * np.arange(12.0).reshape(2, 2, 3)
  fields = {"reference_logps": policy - D} if reference else {}
  return t.from_arrays(
    Feedback.SCORE,
    [[1.0, 0.0], [0.0, 1.0]],
    mask=MASK,
    policy_logps=policy,
    sampler_logps=policy - LOGRATIO,
    advantages=ADVANTAGES,
    **fields,
  )


def clipped(logratio, low, high, adv=ADVANTAGES):
  ratio = np.exp(logratio)
  return np.maximum(-adv * ratio, -adv * np.clip(ratio, 1 - low, 1 + high))


def k3(d=D):
  return np.exp(-d) - 1 + d


def sequence_means(tokens: np.ndarray) -> np.ndarray:
  """[B, K]: the mean over each sample's own tokens."""
  total = np.sum(np.where(MASK, tokens, 0.0), -1)
  return total / MASK.sum(-1)


def plain(tokens, mask) -> LossInputs:
  """Inputs whose token loss is `tokens` [B][T]: ratio 1 and A = -loss."""
  tokens, mask = np.asarray(tokens, float), np.asarray(mask)
  zero = np.zeros((1, *tokens.shape))
  return t.from_arrays(
    Feedback.SCORE,
    np.zeros((1, len(tokens))),
    mask=mask[None],
    policy_logps=zero,
    sampler_logps=zero,
    advantages=-tokens[None],
  )


def reductions() -> LossInputs:
  """methods.md 0.3: over tokens 2.5, over sequences 3, by a constant 4 1.25."""
  return plain([[1, 2, 3, 9], [4, 9, 9, 9]], [[1, 1, 1, 0], [1, 0, 0, 0]])
