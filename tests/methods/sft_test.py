"""SFT: a mean over all completion tokens of the batch."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods import inputs
from xpo_jax.methods import registry
from xpo_jax.types import Feedback

SFT = registry.get("sft")


def demonstrations(nll, lengths):
  """[B, K, T] token NLLs; what is past a length is padding."""
  nll, lengths = np.asarray(nll, float), np.asarray(lengths)
  x = inputs.from_sums(
    np.zeros(lengths.shape),
    lengths=lengths,
    kind=Feedback.DEMONSTRATION,
    feedback=np.ones(lengths.shape),
  )
  mask = np.arange(nll.shape[-1]) < lengths[..., None]
  return x.replace(
    policy_logps=jnp.asarray(-nll), completion_mask=jnp.asarray(mask)
  )


def test_is_the_mean_over_all_tokens():
  x = demonstrations([[[1, 2, 3, 9]], [[4, 9, 9, 9]]], [[3], [1]])
  out = SFT.loss(x)
  np.testing.assert_array_equal(out.loss, [1 + 2 + 3, 4])
  np.testing.assert_array_equal(out.weight, [3, 1])
  assert inputs.total(out) == (1 + 2 + 3 + 4) / 4  # not (2 + 4) / 2
  np.testing.assert_array_equal(out.metrics["logps/token"], [-2, -4])


def test_completions_of_a_prompt_add_up():
  x = demonstrations([[[1, 2, 0], [5, 0, 0]], [[3, 3, 3], [7, 7, 0]]],
                     [[2, 1], [3, 2]])  # fmt: skip
  out = SFT.loss(x)
  np.testing.assert_array_equal(out.loss, [1 + 2 + 5, 3 * 3 + 2 * 7])
  np.testing.assert_array_equal(out.weight, [3, 5])
  absent = x.replace(present=jnp.asarray([[True, False], [True, True]]))
  out = SFT.loss(absent)
  np.testing.assert_array_equal(out.loss, [1 + 2, 3 * 3 + 2 * 7])
  np.testing.assert_array_equal(out.weight, [2, 5])


def test_weights_scale_numerators_and_zero_removes_a_prompt():
  x = demonstrations([[[1, 2]], [[4, 0]], [[8, 8]]], [[2], [1], [2]])
  out = SFT.loss(x.replace(weight=jnp.asarray([0.5, 2.0, 0.0])))
  np.testing.assert_array_equal(out.loss, [0.5 * 3, 2 * 4, 0])
  np.testing.assert_array_equal(out.weight, [2, 1, 0])


def test_gradient_is_minus_one_on_completion_tokens_only():
  x = demonstrations([[[1, 2, 3, 9]], [[4, 9, 9, 9]]], [[3], [1]])
  want = [[[-1, -1, -1, 0]], [[-1, 0, 0, 0]]]
  np.testing.assert_array_equal(inputs.token_gradient(SFT, x), want)


@pytest.mark.parametrize("loss", [0.0, 1e-9, 300.0])
def test_equals_minus_the_mean_logp(loss):
  x = demonstrations([[[loss, loss, loss]]], [[2]])
  assert inputs.total(SFT.loss(x)) == pytest.approx(loss, rel=1e-15)
