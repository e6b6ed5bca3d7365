"""LiPO: the lambda loss and the rest of the family on s = beta u."""

import itertools

import numpy as np
import pytest

from tests.methods import tokens as t
from xpo_jax.types import Feedback

U = np.array([2.0, -1.0, 0.5, 1.5])  # methods.md 16.2, beta .1
PSI = np.array([0.9, 0.2, 0.6, 0.4])
RANK = np.array([1, 4, 3, 2])
S = 0.1 * U
LOSSES = (
  "lambda point_mse point_sigmoid hinge logistic listmle softmax"
).split()


def lists(u=(U,), psi=(PSI,)):
  """Log-ratios, each spread over two tokens of an uneven reference."""
  u = np.asarray(u, float)
  reference = -1.0 - np.arange(u.shape[1])[None, :, None] * [[[0.5, 0.2]]]
  reference = np.broadcast_to(reference, (*u.shape, 2))
  return t.from_arrays(
    Feedback.SCORE,
    psi,
    policy_logps=reference + u[..., None] * [0.3, 0.7],
    reference_logps=reference,
  )


def loss(x, kind="lambda", beta=0.1, **keywords):
  return t.per_prompt("lipo", x, loss=kind, beta=beta, **keywords)


def pairs():
  return [
    (i, j) for i, j in itertools.permutations(range(4), 2) if PSI[i] > PSI[j]
  ]


def delta(i, j):
  gain = abs(2 ** PSI[i] - 2 ** PSI[j])
  return gain * abs(1 / np.log(1 + RANK[i]) - 1 / np.log(1 + RANK[j]))


def test_lambda_golden():
  want = sum(delta(i, j) * t.softplus(S[j] - S[i]) for i, j in pairs())
  t.close(loss(lists()), [want])
  t.close(want, 0.7569033032)
  t.close(loss(lists(), log_base="2"), [want * np.log(2)])
  t.close(want * np.log(2), 0.5246453906)


def test_family_golden():
  t.close(loss(lists(), "logistic"), [3.7850650680])
  t.close(loss(lists(), "listmle"), [2.9308363653])
  t.close(loss(lists(), "softmax"), [1.3698443420])
  t.close(loss(lists(), "point_mse"), [0.2247963448])
  t.close(loss(lists(), "point_mse"), [np.sum((t.sigma(S) - PSI) ** 2)])


def test_family_by_hand():
  hinge = sum(max(0.0, 1 - (S[i] - S[j])) for i, j in pairs())
  t.close(loss(lists(), "hinge"), [hinge])
  entropy = PSI * np.log(t.sigma(S)) + (1 - PSI) * np.log(t.sigma(-S))
  t.close(loss(lists(), "point_sigmoid"), [-np.sum(entropy)])
  order = [0, 2, 3, 1]  # by descending psi
  want = sum(
    np.log(np.sum(np.exp(S[order[k:]]))) - S[order[k]] for k in range(4)
  )
  t.close(loss(lists(), "listmle"), [want])
  target = np.exp(PSI) / np.sum(np.exp(PSI))
  want = -np.sum(target * (S - np.log(np.sum(np.exp(S)))))
  t.close(loss(lists(), "softmax"), [want])


def test_plackett_luce_golden():
  u = [[0.2, 0.05, -0.1, 9.0]]
  x = t.absent(lists(u, [[3.0, 2.0, 1.0, 9.0]]), (0, 3))
  t.close(loss(x, "listmle", beta=1.0), [1.5770553195])
  tied = t.absent(lists(u, [[1.0, 1.0, 1.0, 9.0]]), (0, 3))  # ties by index
  t.close(loss(tied, "listmle", beta=1.0), [1.5770553195])


def test_a_pair():
  h = 0.9 + 0.4
  x = lists([[0.9, -0.4]], [[0.8, 0.1]])
  order = x.replace(
    feedback=x.feedback * 0 + np.array([[1.0, 0.0]]),
    feedback_kind=Feedback.ORDER,
  )
  t.close(loss(x, "logistic"), t.per_prompt("dpo", order, beta=0.1))
  gain = 2**0.8 - 2**0.1
  t.close(loss(x), [gain * 0.5324558143 * t.softplus(-0.1 * h)], 1e-8)
  t.close(
    loss(x, log_base="2"), [gain * 0.3690702464 * t.softplus(-0.1 * h)], 1e-8
  )


@pytest.mark.parametrize("kind", ["lambda", "hinge", "logistic"])
def test_equal_labels_make_no_pair(kind):
  t.close(loss(lists(psi=[[0.5] * 4]), kind), [0.0])


@pytest.mark.parametrize("kind", LOSSES)
def test_order_and_absence(kind):
  """Permuting a list changes nothing, nor does the place of a gap in it."""
  x = lists()
  t.close(loss(t.completions(x, 2, 0, 3, 1), kind), loss(x, kind))
  gap = t.absent(lists([U[[0, 3, 1, 2]]], [PSI[[0, 3, 1, 2]]]), (0, 1))
  t.close(loss(gap, kind), loss(t.absent(x, (0, 3)), kind))


def test_an_absent_completion_has_no_rank():
  """Without the second best, 1.5, the ranks are 1, 3, 2."""
  gain, rank = 2 ** PSI[[0, 1, 2]], np.array([1, 3, 2])
  discount = 1 / np.log(1 + rank)
  want = sum(
    abs(gain[i] - gain[j])
    * abs(discount[i] - discount[j])
    * t.softplus(S[j] - S[i])
    for i, j in [(0, 1), (0, 2), (2, 1)]
  )
  t.close(loss(t.absent(lists(), (0, 3))), [want])


def test_no_gradient_through_the_ranks():
  slope = np.zeros(4)
  for i, j in pairs():
    slope[i] -= delta(i, j) * t.sigma(S[j] - S[i]) * 0.1
    slope[j] += delta(i, j) * t.sigma(S[j] - S[i]) * 0.1
  got = t.gradient("lipo", lists(), beta=0.1)
  t.close(got, np.broadcast_to(slope[None, :, None], (1, 4, 2)))


@pytest.mark.parametrize("kind", LOSSES)
def test_gradient(kind):
  t.check_gradient("lipo", lists(), loss=kind, beta=0.7)
