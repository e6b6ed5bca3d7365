"""Pairwise CRINGE: a gated likelihood and a token contrast, by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods import inputs
from tests.methods.pairs import close, sigma, softplus, sums
from xpo_jax.methods import registry
from xpo_jax.types import Feedback

CRINGE = registry.get("pairwise_cringe")
OPEN = dict(gate_center=1e6, gate_temperature=1.0)  # g = 1
# Chosen tokens -1, -2; rejected tokens -.5, -1.5, -1 against -2, -1, -1.
CHOSEN, REJECTED = [-1.0, -2.0], [-0.5, -1.5, -1.0]
CONTRAST = [-2.0, -1.0, -1.0]


def tokens(chosen, rejected, contrast):
  """One pair of token log-probs [T]."""
  n, m = len(chosen), len(rejected)
  grid = np.zeros((3, 1, 2, 3))
  grid[0, 0, 0, :n], grid[0, 0, 1, :m] = chosen, rejected
  grid[1, 0, 0], grid[1, 0, 1, :m] = -3.0, contrast
  mask = np.arange(3) < np.array([[n], [m]])
  x = inputs.from_sums(
    [[-1.0, -1.0]],
    lengths=[[1, 2]],
    kind=Feedback.ORDER,
    feedback=[[1.0, 0.0]],
  )
  return x.replace(
    policy_logps=jnp.asarray(grid[0]),
    contrast_logps=jnp.asarray(grid[1]),
    completion_mask=jnp.asarray(mask[None]),
  )


def hand(gate_center=-10.0, gate_temperature=10.0, alpha=0.005):
  """(gate, CE, Cr, loss) of the batch above."""
  margin = (-1 - 2) - (-0.5 - 1.5 - 1)
  gate = 1 / (1 + math.exp(-(gate_center - margin) / gate_temperature))
  ce = (1 + 2) / 2
  cr = (softplus(1.5) + softplus(-0.5) + softplus(0.0)) / 3
  return gate, ce, cr, gate * (ce + alpha * cr)


def test_by_hand():
  x = tokens(CHOSEN, REJECTED, CONTRAST)
  gate, ce, cr, want = hand()
  out = CRINGE.loss(x)
  close(out.loss, want, 1e-14)
  close(gate, 1 / (1 + math.e))  # margin 0
  close(out.metrics["cringe/gate"], gate)
  close(out.metrics["nll/chosen"], ce)
  close(out.metrics["cringe/rejected"], cr)
  keywords = dict(gate_center=1.0, gate_temperature=0.5, alpha=0.3)
  close(CRINGE.loss(x, **keywords).loss, hand(**keywords)[3], 1e-14)


def test_golden_contrast_of_logits():
  """Logits [2, 1, 0, -1], data token 0: softplus(2 - 1), softplus(2 - 0)."""
  logits = np.array([2.0, 1.0, 0.0, -1.0])
  logps = logits - np.log(np.sum(np.exp(logits)))
  for choice, want in ((1, 1.3132616875), (2, 2.126928011)):
    x = tokens([-1.0], [logps[0]], [logps[choice]])
    close(CRINGE.loss(x).metrics["cringe/rejected"], want)
  draw = np.exp(logits[1:3]) / np.exp(logits[1:3]).sum()
  close(draw, [0.7310585786, 0.2689414214])
  close(draw @ [1.3132616875, 2.126928011], 1.5320902651)
  gone = tokens([-1.0], [-2000.0], [-0.1])
  close(CRINGE.loss(gone).metrics["cringe/rejected"], 0.0, 1e-300)


def gate_at(margin, **keywords):
  x = sums(np.asarray(margin, float) - 20.0, -20.0, lengths=(1, 1))
  x = x.replace(contrast_logps=jnp.zeros_like(x.policy_logps))
  return np.asarray(CRINGE.loss(x, **keywords).metrics["cringe/gate"])


def test_gate():
  got = gate_at([-10.0, 0.0, 10.0])
  close(got, [0.5, 0.2689414214, 0.1192029220])
  hard = gate_at([-10.1, -9.9], gate_temperature=1e-6)
  close(hard, [1.0, 0.0], 1e-300)


def test_sft_without_contrast_and_gate():
  x = tokens(CHOSEN, REJECTED, CONTRAST)
  close(CRINGE.loss(x, alpha=0.0, **OPEN).loss, 1.5, 1e-15)
  grad = inputs.token_gradient(CRINGE, x, alpha=0.0, **OPEN)
  close(grad[0], [[-0.5, -0.5, 0.0], [0.0, 0.0, 0.0]], 1e-15)


def test_gradients_by_hand():
  x = tokens(CHOSEN, REJECTED, CONTRAST)
  gate, ce, cr, _ = hand(alpha=0.3)
  contrast = 0.3 * gate * sigma([1.5, -0.5, 0.0]) / 3
  detached = np.array([[-gate / 2, -gate / 2, 0.0], contrast])
  keywords = dict(alpha=0.3, gate_stop_grad=True)
  close(inputs.token_gradient(CRINGE, x, **keywords)[0], detached, 1e-14)
  # Differentiable: dg/dM < 0 rewards a larger margin too.
  pull = gate * (1 - gate) / 10.0 * (ce + 0.3 * cr)
  full = detached + np.array([[-pull, -pull, 0.0], [pull] * 3])
  close(inputs.token_gradient(CRINGE, x, alpha=0.3)[0], full, 1e-14)


@pytest.mark.parametrize("field", ["policy_logps", "contrast_logps"])
def test_gradients_agree_with_differences(field):
  x = tokens(CHOSEN, REJECTED, CONTRAST)
  fn = lambda v: jnp.sum(CRINGE.loss(x.replace(**{field: v}), alpha=0.3).loss)
  got = jax.grad(fn)(getattr(x, field))
  close(got, inputs.numeric_gradient(fn, getattr(x, field)), 1e-8)
