"""What the tests of pair losses share: the batch of methods.md 16.1 by name.

Two pairs: u = S - R, h = u_w - u_l, A = S / N.
"""

import jax.numpy as jnp
import numpy as np

from tests.methods import inputs
from xpo_jax.methods import registry
from xpo_jax.types import Feedback, LossInputs

S_W, S_L = np.array([-12.0, -20.5]), np.array([-15.0, -18.25])
R_W, R_L = np.array([-13.0, -19.5]), np.array([-14.0, -18.75])
N_W, N_L = np.array([4, 8]), np.array([6, 5])
U_W, U_L = np.array([1.0, -1.0]), np.array([-1.0, 0.5])
H = np.array([2.0, -1.5])
A_W, A_L = S_W / N_W, S_L / N_L


def softplus(z):
  return np.logaddexp(0.0, z)


def sigma(z):
  return 1 / (1 + np.exp(-np.asarray(z, float)))


def golden(name: str, **keywords) -> LossInputs:
  """The batch, with the reference that the method needs."""
  needs = registry.get(name).needs(keywords)
  return inputs.golden_pairs(reference="reference_logps" in needs)


def twos(x: LossInputs) -> list[LossInputs]:
  """Batches of two pairs in the golden shape [2, K, 9], the last one filled up.

  Every new shape costs eager jax a compilation of each operation.
  """
  count, _, tokens = x.completion_mask.shape

  def part(start):
    place = np.minimum([start, start + 1], count - 1)

    def take(v):
      wider = [(0, 0), (0, 0), (0, max(0, 9 - tokens))][: v.ndim]
      return np.pad(v[place], wider)

    return inputs.map_prompts(x, take)

  return [part(start) for start in range(0, count, 2)]


def losses(name: str, x: LossInputs | None = None, **keywords) -> np.ndarray:
  """Loss of each pair; of the golden batch if x is None."""
  x = golden(name, **keywords) if x is None else x
  outs = [registry.get(name).loss(part, **keywords) for part in twos(x)]
  for out in outs:
    np.testing.assert_array_equal(out.weight, [1.0, 1.0])
  return np.concatenate([out.loss for out in outs])[: len(x.weight)]


def pair(u_chosen, u_rejected, *, kind=Feedback.ORDER, p=1.0) -> LossInputs:
  """Pairs of these log-ratios [B] over an uneven reference.

  Args:
    u_chosen: numbers or [B].
    u_rejected: the same.
    kind: ORDER or PROBABILITY.
    p: feedback of index 0.
  """
  u, v = np.broadcast_arrays(np.atleast_1d(u_chosen), np.atleast_1d(u_rejected))
  reference = np.tile([-12.0, -15.0], (len(u), 1))
  p = np.broadcast_to(p, u.shape)
  return inputs.from_sums(
    reference + np.stack([u, v], -1),
    reference=reference,
    lengths=[[4, 6]] * len(u),
    kind=kind,
    feedback=np.stack([p, 1 - p], -1),
  )


def sums(s_chosen, s_rejected, lengths=(4, 6)) -> LossInputs:
  """Pairs of these policy log-prob sums [B], without a reference."""
  s = np.stack(
    np.broadcast_arrays(np.atleast_1d(s_chosen), np.atleast_1d(s_rejected)), -1
  )
  return inputs.from_sums(
    s,
    lengths=[list(lengths)] * len(s),
    kind=Feedback.ORDER,
    feedback=[[1.0, 0.0]] * len(s),
  )


def slopes(name: str, x: LossInputs, **keywords) -> np.ndarray:
  """[B, K]: gradient of sum(loss) in the policy's sums S.

  Every token of a completion must show the same; the others nothing.
  """
  method, found = registry.get(name), []
  for part in twos(x):
    grad = inputs.token_gradient(method, part, **keywords)
    mask, first = np.asarray(part.completion_mask), grad[..., :1]
    np.testing.assert_allclose(grad, np.where(mask, first, 0.0), atol=1e-12)
    found.append(first[..., 0])
  return np.concatenate(found)[: len(x.weight)]


def check_slopes(name: str, x: LossInputs, **keywords) -> None:
  """`slopes` against central differences of sum(loss) in float64."""
  method = registry.get(name)
  mask = np.asarray(x.completion_mask)
  step = 1e-6
  share = step * mask / np.maximum(mask.sum(-1, keepdims=True), 1)

  def at(b, k, sign):
    logps = np.array(x.policy_logps)
    logps[b, k] += sign * share[b, k]
    moved = x.replace(policy_logps=jnp.asarray(logps))
    return np.sum(method.loss(moved, **keywords).loss)

  want = np.zeros(mask.shape[:2])
  for b, k in np.ndindex(want.shape):
    want[b, k] = (at(b, k, 1) - at(b, k, -1)) / (2 * step)
  np.testing.assert_allclose(slopes(name, x, **keywords), want, atol=1e-7)


def close(got, want, atol=1e-9):
  """Golden vectors have ten digits."""
  np.testing.assert_allclose(got, want, rtol=0, atol=atol)
