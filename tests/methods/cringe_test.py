"""CRINGE: two token means, of good texts and of contrasted bad ones."""

import numpy as np
import pytest

from tests.methods import tokens as t
from xpo_jax.methods import registry
from xpo_jax.types import Feedback

LOGITS = np.array([2.0, 1.0, 0.0, -1.0])  # methods.md 6.2, data token 0
LOGPS = LOGITS - np.log(np.sum(np.exp(LOGITS)))


def texts(labels, logps, contrast=None, mask=None):
  fields = {"policy_logps": np.asarray(logps)[:, None]}
  if contrast is not None:
    fields["contrast_logps"] = np.asarray(contrast)[:, None]
  mask = None if mask is None else np.asarray(mask)[:, None]
  labels = np.asarray(labels)[:, None]
  return t.from_arrays(Feedback.BINARY, labels, mask=mask, **fields)


def mixed(contrast=True):
  """Two good tokens, then two and one bad ones."""
  return texts(
    [1.0, -1.0, -1.0],
    [[-0.3, -1.1], [-0.7, -0.2], [-2.0, 9.0]],
    [[7.0, 7.0], [-0.9, -1.7], [-0.4, 9.0]] if contrast else None,
    mask=[[1, 1], [1, 1], [1, 0]],
  )


LIKELIHOOD = [0.3 + 1.1, 0.0, 0.0]
CONTRAST = [0.0, t.softplus(0.2) + t.softplus(1.5), t.softplus(-1.6)]


def test_golden():
  """The data token against its two best alternatives, in expectation."""
  x = texts([-1.0, -1.0], LOGPS[[[0], [0]]], LOGPS[[[1], [2]]])
  out = t.run("cringe", x)
  per_choice = np.asarray(out.terms["contrast"][0])
  t.close(per_choice, [np.log(1 + np.exp(1)), np.log(1 + np.exp(2))])
  t.close(per_choice, [1.3132616875, 2.126928011])
  choice = np.exp(LOGITS[1:3]) / np.sum(np.exp(LOGITS[1:3]))
  t.close(choice, [0.7310585786, 0.2689414214])
  t.close(choice @ per_choice, 1.5320902651)


def test_each_sum_over_its_own_tokens():
  out = t.run("cringe", mixed(), alpha=0.5)
  t.close(out.loss, LIKELIHOOD)
  np.testing.assert_array_equal(out.weight, [2, 0, 0])
  t.close(out.terms["contrast"][0], 0.5 * np.array(CONTRAST))
  np.testing.assert_array_equal(out.terms["contrast"][1], [0, 2, 1])
  want = np.sum(LIKELIHOOD) / 2 + 0.5 * np.sum(CONTRAST) / 3
  t.close(t.value("cringe", mixed(), alpha=0.5), want)


def test_joint_norm():
  out = t.run("cringe", mixed(), alpha=0.5, norm="joint")
  assert not out.terms
  np.testing.assert_array_equal(out.weight, [2, 2, 1])
  want = (np.sum(LIKELIHOOD) + 0.5 * np.sum(CONTRAST)) / 5
  t.close(t.value("cringe", mixed(), alpha=0.5, norm="joint"), want)


@pytest.mark.parametrize(
  "labels, want", [((1, 1, 1), (1.4 + 0.9 + 2.0) / 5), ((0, 0, 0), 0.0)]
)
def test_a_class_without_tokens_adds_nothing(labels, want):
  x = mixed().replace(feedback=mixed().feedback * 0 + np.array([labels]).T)
  t.close(t.value("cringe", x), want)


def test_alpha_zero_is_supervised_training_on_the_good_texts():
  x = mixed(contrast=False)
  good = t.prompts(x, 0).replace(feedback_kind=Feedback.DEMONSTRATION)
  t.close(t.value("cringe", x, alpha=0.0), t.value("sft", good))
  assert not registry.get("cringe").needs({"alpha": 0.0})


def test_an_impossible_token_needs_no_push():
  x = texts([-1.0], [[-800.0]], [[-0.1]])
  t.close(t.value("cringe", x), 0.0)


def test_gradient_reaches_both_logits():
  x = mixed()
  gap = np.array([[0.2, 1.5], [-1.6, -np.inf]])
  want = np.concatenate([[[0.0, 0.0]], t.sigma(gap)])[:, None] / 3
  t.close(t.gradient("cringe", x, "contrast_logps"), -want)
  likelihood = np.zeros((3, 1, 2))
  likelihood[0] = -1 / 2
  t.close(t.gradient("cringe", x), likelihood + want)
  t.check_gradient("cringe", x)
  t.check_gradient("cringe", x, "contrast_logps", norm="joint")
