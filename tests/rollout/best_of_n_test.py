"""Best-of-n against enumeration."""

import itertools
import math

import jax
import numpy as np
import pytest

from xpo_jax.errors import XpoError
from xpo_jax.rollout import best_of_n, select
from xpo_jax.types import Samples

NAN = np.nan
best = jax.jit(best_of_n.best, static_argnums=2)


def samples(count, branches):
  tokens = np.arange(count * branches * 2).reshape(count, branches, 2)
  return Samples(tokens, tokens >= 0, tokens * 0.5, tokens[..., 0] % 4 == 0)


def test_the_best_scorable_completion_is_chosen():
  scores = [
    [1, 3, 2],
    [NAN, -9, NAN],
    [NAN] * 3,
    [2, 2, 1],
    [NAN, -np.inf, 0],
  ]
  given = samples(5, 3)
  found, index = best(given, np.array(scores, "f"), 0)
  assert index.tolist() == [1, 1, -1, 0, 2]
  wanted = [given.tokens[b, k].tolist() for b, k in enumerate([1, 1, 0, 0, 2])]
  assert found.tokens[:, 0].tolist() == wanted
  assert found.ended[:, 0].tolist() == [t[0] % 4 == 0 for t in wanted]
  assert found.sampler_logps.shape == (5, 1, 2)


def test_only_the_first_n_compete():
  scores = np.array([[1, 2, 3, 4]] * 5, "f")
  given = jax.tree.map(lambda x: np.repeat(x, 2, axis=1), samples(5, 2))
  _, index = best(given, scores, 2)
  assert index.tolist() == [1] * 5


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_expected_best_is_the_mean_over_all_subsets(n):
  scores = np.array([[0.3, -1, 2, 0.9, 0.1], [1, 1, 2, 5, -4]])
  every = [[max(c) for c in itertools.combinations(row, n)] for row in scores]
  np.testing.assert_allclose(
    best_of_n.expected_best(scores, n), np.mean(every, axis=1)
  )


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_kl_is_that_of_many_equally_likely_outcomes(n):
  """The i-th worst of m is the best of n with ((i+1)^n - i^n) / m^n."""
  m = 200_000
  edges = (np.arange(m + 1) / m) ** n
  p = np.diff(edges)
  p = p[p > 0]
  exact = (p * np.log(p * m)).sum()
  assert best_of_n.kl(n) == pytest.approx(exact, abs=1e-4)
  assert best_of_n.kl(n) == math.log(n) - (n - 1) / n


def test_what_is_selected_has_that_kl():
  """The divergence of 400,000 selections among 1,000 equally likely texts."""
  n, m, count = 4, 1_000, 400_000
  drawn = np.random.default_rng(n).integers(m, size=(count, n))
  chosen = select.best_of_n(drawn / m, np.ones_like(drawn, bool)).index
  index = np.asarray(chosen).reshape(count, 1)
  p = np.bincount(np.take_along_axis(drawn, index, 1)[:, 0], minlength=m)
  p = p[p > 0] / count
  # Finite numbers of texts and of selections: about n / m and m / (2 count).
  assert (p * np.log(p * m)).sum() == pytest.approx(best_of_n.kl(n), abs=0.006)


@pytest.mark.parametrize("n", [-1, 4])
def test_n_out_of_range(n):
  with pytest.raises(XpoError, match=f"n={n} with 3 completions"):
    best_of_n.best(samples(1, 3), np.zeros((1, 3)), n)
