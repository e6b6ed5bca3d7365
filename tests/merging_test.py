"""Merging operators against arithmetic by hand, and identities they obey."""

import math

import numpy as np
import pytest

from xpo_jax import deltas, merged, merging
from xpo_jax.merging import Operator, Recipe

FIRST = [1.0, -2.0, 0.1, 0.5]
SECOND = [-0.5, -1.0, 0.9, 0.2]


def merge(base, sources, operator, **how):
  """The merged tree, read whole."""
  made = merged.prepare(base, sources, Recipe(Operator(operator), **how))
  return {k: np.asarray(v) for k, v in merged.tree(made).items()}


def vectors(*rows, base=0.0):
  """(base, sources) as trees of one float64 tensor x."""
  start = np.zeros(len(rows[0])) + base
  return {"x": start}, [{"x": start + np.array(row)} for row in rows]


def random_trees(count=2, seed=0, move=0.1):
  """float32 trees as a model's: one plain leaf, one of three layers."""
  noise = np.random.default_rng(seed)
  draw = lambda size: {
    "blocks": {"mlp": noise.normal(0, size, (3, 4, 5)).astype(np.float32)},
    "embed": noise.normal(0, size, (7, 3)).astype(np.float32),
  }
  base = draw(1.0)
  add = lambda a, b: {
    "blocks": {"mlp": a["blocks"]["mlp"] + b["blocks"]["mlp"]},
    "embed": a["embed"] + b["embed"],
  }
  return base, tuple(add(base, draw(move)) for _ in range(count))


def same(found, wanted):
  """Bit for bit."""
  for read in (lambda t: t["embed"], lambda t: t["blocks"]["mlp"]):
    a, b = np.asarray(read(found)), np.asarray(read(wanted))
    assert a.dtype == b.dtype and a.tobytes() == b.tobytes()


def whole(base, sources, operator, **how):
  return merged.tree(
    merged.prepare(base, sources, Recipe(Operator(operator), **how))
  )


@pytest.mark.parametrize("base", [0.0, 3.0])
def test_ties_golden(base):
  start, sources = vectors(FIRST, SECOND, base=base)
  found = merge(start, sources, "ties", densities=(0.5, 0.5))["x"]
  # Kept: [1, -2, 0, 0] and [0, -1, .9, 0].
  wanted = base + np.array([1.0, (-2 - 1) / 2, 0.9, 0.0])
  np.testing.assert_allclose(found, wanted, rtol=1e-15)


def test_ties_takes_densities_weights_and_a_scale():
  start, sources = vectors(FIRST, SECOND)
  how = dict(densities=(0.25, 1.0), weights=(1.0, 3.0), scale=2.0)
  found = merge(start, sources, "ties", **how)["x"]
  # Kept: [0, -2, 0, 0] and all of the second.
  wanted = [-1.0, 2 * (-2 * 1 - 1 * 3) / 4, 1.8, 0.4]
  np.testing.assert_allclose(found, wanted, rtol=1e-15)


def test_a_density_counts_as_a_decimal():
  # 0.29 * 100 is 28.999.. in binary: 29 entries of 100 are meant.
  row = np.arange(100, 0, -1.0)
  start, sources = vectors(row)
  found = merge(start, sources, "ties", densities=(0.29,))["x"]
  np.testing.assert_array_equal(found, np.where(row > 71, row, 0))


def test_of_equal_sizes_the_lower_index_is_kept(monkeypatch):
  row = np.array([1.0, -3.0, 3.0, 2.0, -3.0, 3.0, 3.0, 0.5])
  start, sources = vectors(row)
  for chunk in (2**22, 3, 1):  # ties are shared out over chunks
    monkeypatch.setattr(merged, "CHUNK", chunk)
    found = merge(start, sources, "ties", densities=(0.375,))["x"]
    np.testing.assert_array_equal(found, [0, -3, 3, 0, -3, 0, 0, 0])


def test_a_sign_conflict_that_cancels_out_goes_to_the_majority():
  # The first entry cancels out; the others elect -, -, +.
  start, sources = vectors([2, -1, -1, 3], [-2, -1, -3, 1])
  how = dict(densities=(1.0, 1.0))
  found = merge(start, sources, "ties", **how)["x"]
  np.testing.assert_array_equal(found, [-2, -1, -2, 2])
  # As many + as -: plus. Of a trim by tensor always plus.
  start, sources = vectors([2, -1, 3], [-2, -1, 1])
  np.testing.assert_array_equal(
    merge(start, sources, "ties", **how)["x"], [2, -1, 2]
  )
  start, sources = vectors([2, -1, -1, 3], [-2, -1, -3, 1])
  how["trim_scope"] = "tensor"
  found = merge(start, sources, "ties", **how)["x"]
  np.testing.assert_array_equal(found, [2, -1, -2, 2])


def slow_ties(base, sources, densities, scope):
  """The definition, on vectors that are sorted whole."""
  join = lambda t: np.concatenate(
    [t["blocks"]["mlp"].ravel(), t["embed"].ravel()]
  ).astype(np.float64)
  start = join(base)
  tau = np.array([join(s) - start for s in sources])
  ends = {"vector": [0, 81], "tensor": [0, 20, 40, 60, 81]}[scope]
  for row, density in zip(tau, densities):
    for low, high in zip(ends, ends[1:]):
      part = row[low:high]
      order = np.argsort(-np.abs(part.astype(np.float32)), kind="stable")
      part[order[int(density * len(part)) :]] = 0
  votes = np.sign(tau.sum(0))
  votes[votes == 0] = 1 if scope == "tensor" else np.sign(votes.sum()) or 1
  out = start.copy()
  for j in range(len(start)):
    agree = [x for x in tau[:, j] if x and np.sign(x) == votes[j]]
    out[j] += np.mean(agree) if agree else 0
  return out


@pytest.mark.parametrize("chunk", [2**22, 7])
@pytest.mark.parametrize("scope", ["vector", "tensor"])
def test_ties_over_a_tree_is_the_definition(scope, chunk, monkeypatch):
  monkeypatch.setattr(merged, "CHUNK", chunk)
  base, sources = random_trees(3)
  densities = (0.2, 0.5, 1.0)
  how = dict(densities=densities, trim_scope=scope)
  found = whole(base, sources, "ties", **how)
  wanted = slow_ties(base, sources, densities, scope).astype(np.float32)
  np.testing.assert_array_equal(
    np.asarray(found["blocks"]["mlp"]).ravel(), wanted[:60]
  )
  np.testing.assert_array_equal(np.asarray(found["embed"]).ravel(), wanted[60:])
  layer = np.asarray(found["blocks"]["mlp"][1:2])
  np.testing.assert_array_equal(layer.ravel(), wanted[20:40])


def test_frozen_tensors_are_no_part_of_a_vector():
  # 4 of 8 numbers are moved at all: a density of a half keeps 2.
  base = {"a": np.zeros(4), "b": np.ones(4)}
  source = {"a": np.zeros(4), "b": 1 + np.array(FIRST)}
  found = merge(base, [source], "ties", densities=(0.5,))
  np.testing.assert_array_equal(found["a"], np.zeros(4))
  np.testing.assert_array_equal(found["b"], [2, -1, 1, 1])


def test_slerp_golden():
  start, sources = vectors([1.0, 0.0], [0.0, 2.0])
  found = merge(start, sources, "slerp", t=0.25)["x"]
  np.testing.assert_allclose(found, [0.9238795325, 0.7653668647], atol=1e-10)
  # Of deltas: the same around another start.
  start, sources = vectors([1.0, 0.0], [0.0, 2.0], base=5.0)
  found = merge(start, sources, "slerp", t=0.25, space="deltas")["x"]
  np.testing.assert_allclose(found, [5.9238795325, 5.7653668647], atol=1e-10)
  turned = merge(start, sources, "slerp", t=0.25)["x"]
  cosine = (6 * 5 + 5 * 7) / math.sqrt((36 + 25) * (25 + 49))
  w = math.acos(cosine)
  one, two = math.sin(0.75 * w) / math.sin(w), math.sin(0.25 * w) / math.sin(w)
  wanted = [one * 6 + two * 5, one * 5 + two * 7]
  np.testing.assert_allclose(turned, wanted, rtol=1e-12)


def test_slerp_turns_entries_that_no_model_moved_too():
  base = {"x": np.array([0.0, 0.0, 1.0])}
  a, b = np.array([1.0, 0.0, 1.0]), np.array([0.0, 2.0, 1.0])
  found = merge(base, [{"x": a}, {"x": b}], "slerp", t=0.25)["x"]
  w = math.acos(1 / math.sqrt(2 * 5))
  wanted = (math.sin(0.75 * w) * a + math.sin(0.25 * w) * b) / math.sin(w)
  np.testing.assert_allclose(found, wanted, rtol=1e-12)
  assert found[2] > 1.1
  # Deltas have no such entry: 0 stays 0.
  found = merge(base, [{"x": a}, {"x": b}], "slerp", t=0.25, space="deltas")
  assert found["x"][2] == 1.0


@pytest.mark.parametrize("space", ["weights", "deltas"])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_slerp_ends_at_its_models(t, space):
  base, sources = random_trees()
  found = whole(base, sources, "slerp", t=t, space=space)
  same(found, sources[int(t)])


@pytest.mark.parametrize(
  "dot, norms",
  [(3.9999, (2.0, 2.0)), (-3.9999, (2.0, 2.0)), (0.0, (1e-9, 2.0))],
)
def test_slerp_is_a_straight_line_where_an_angle_tells_nothing(dot, norms):
  assert merging.slerp_weights(dot, *norms, 0.25) == (0.75, 0.25)


def test_slerp_has_an_angle_of_its_own_in_every_layer():
  base = {"blocks": {"x": np.zeros((2, 2))}}
  one = {"blocks": {"x": np.array([[1.0, 0.0], [1.0, 0.0]])}}
  two = {"blocks": {"x": np.array([[0.0, 1.0], [1.0, 0.0]])}}
  found = np.asarray(whole(base, [one, two], "slerp", t=0.5)["blocks"]["x"])
  np.testing.assert_allclose(found, [[0.5**0.5] * 2, [1, 0]], rtol=1e-12)


def test_linear_and_task_arithmetic():
  start, sources = vectors(FIRST, SECOND, base=1.0)
  a, b = 1 + np.array(FIRST), 1 + np.array(SECOND)
  how = dict(weights=(1.0, 3.0))
  near = lambda found, wanted: np.testing.assert_allclose(found, wanted, 1e-13)
  near(merge(start, sources, "linear", **how)["x"], (a + 3 * b) / 4)
  how["normalise"] = False
  near(merge(start, sources, "linear", **how)["x"], a + 3 * b)
  how = dict(weights=(1.0, -2.0), scale=0.5)
  wanted = 1 + 0.5 * (np.array(FIRST) - 2 * np.array(SECOND))
  near(merge(start, sources, "task_arithmetic", **how)["x"], wanted)


@pytest.mark.parametrize(
  "operator, how",
  [
    ("linear", {}),
    ("slerp", dict(t=0.3)),
    ("slerp", dict(t=0.3, space="deltas")),
    ("ties", dict(densities=(1.0, 1.0))),
    ("dare_linear", dict(drop=0.0)),
    ("dare_ties", dict(drop=0.0, densities=(1.0, 1.0))),
  ],
)
def test_of_two_equal_models_the_merge_is_that_model(operator, how):
  base, (source,) = random_trees(1)
  same(whole(base, (source, source), operator, **how), source)


@pytest.mark.parametrize(
  "operator", ["task_arithmetic", "linear", "ties", "dare_linear", "dare_ties"]
)
def test_one_model_alone_comes_back(operator):
  base, sources = random_trees(1)
  how = dict(drop=0.0) if operator.startswith("dare") else {}
  same(whole(base, sources, operator, **how), sources[0])


@pytest.mark.parametrize("operator", [o.value for o in Operator])
def test_what_no_model_moved_is_the_bases_bits(operator):
  base, sources = random_trees()
  base["embed"][0, 0] = -0.0
  for source in sources:
    source["embed"] = base["embed"].copy()
    source["blocks"]["mlp"][0] = base["blocks"]["mlp"][0]
  found = whole(base, sources, operator)
  assert np.asarray(found["embed"]).tobytes() == base["embed"].tobytes()
  mlp = np.asarray(found["blocks"]["mlp"])
  assert mlp[0].tobytes() == base["blocks"]["mlp"][0].tobytes()
  assert np.abs(mlp[1:] - base["blocks"]["mlp"][1:]).max() > 1e-3


def test_dare_drops_a_share_and_keeps_the_mean():
  size, drop = 20_000, 0.75
  start, sources = vectors(np.ones(size), np.full(size, 2.0))
  found = merge(start, sources, "dare_linear", drop=drop, seed=3)["x"]
  # Each delta is 0 or 4 times itself; linear takes their mean.
  values, counts = np.unique(found, return_counts=True)
  np.testing.assert_array_equal(values, [0, 2, 4, 6])
  shares = np.array([0.75**2, 0.75 / 4, 0.75 / 4, 1 / 16])  # independent
  error = np.sqrt(shares * (1 - shares) / size)
  assert (np.abs(counts / size - shares) < 5 * error).all()
  again = merge(start, sources, "dare_linear", drop=drop, seed=3)["x"]
  other = merge(start, sources, "dare_linear", drop=drop, seed=4)["x"]
  np.testing.assert_array_equal(found, again)
  assert (found != other).mean() > 0.3


def test_dare_ties_trims_what_dare_left():
  start, sources = vectors(np.linspace(1, 2, 1000))
  how = dict(drop=0.9, densities=(0.05,), seed=1)
  found = merge(start, sources, "dare_ties", **how)["x"]
  left = merge(start, sources, "dare_linear", drop=0.9, seed=1)["x"]
  assert 70 < np.sum(left != 0) < 130
  order = np.sort(left)
  np.testing.assert_allclose(
    found, np.where(left >= order[-50], left, 0), rtol=1e-12
  )


def test_measures_are_those_of_the_deltas():
  a, b = [3.0, -4.0, 0.0, 1e-6], [3.0, 4.0, 2.0, -1e-6]
  start, sources = vectors(a, b)
  start["frozen"] = np.ones(6)
  sources = [{**s, "frozen": np.ones(6)} for s in sources]
  recipe = Recipe(Operator.TASK_ARITHMETIC, weights=(1.0, 0.0))
  found = deltas.measure(merged.prepare(start, sources, recipe))
  np.testing.assert_allclose(found.sparsity, [2 / 4, 1 / 4, 2 / 4])
  assert found.conflict == 1 / 2  # of the first two entries, the second
  norms = [5, math.sqrt(9 + 16 + 4), 5]
  np.testing.assert_allclose(found.norm, norms, rtol=1e-9)
  cosine = (9 - 16) / (5 * math.sqrt(29))
  wanted = [[1, cosine, 1], [cosine, 1, cosine], [1, cosine, 1]]
  np.testing.assert_allclose(found.cosine, wanted, rtol=1e-9)


def test_measures_of_nothing_are_nan():
  start, sources = vectors([0.0, 0.0], [0.0, 0.0])
  made = merged.prepare(start, sources, Recipe(Operator.LINEAR))
  found = deltas.measure(made)
  assert math.isnan(found.conflict) and np.isnan(found.sparsity).all()
  np.testing.assert_array_equal(found.norm, [0, 0, 0])
