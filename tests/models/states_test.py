"""Cached numbers are the model's own, and never those of anything else."""

import dataclasses

import jax
import numpy as np
import pytest

from tests import plain_model
from tests import tiny_models as tiny
from xpo_jax.models import heads, states
from xpo_jax.models.model import Model

CONFIG = dataclasses.replace(tiny.CONFIG, layers=2)
MODEL = Model(CONFIG, trunk_blocks=1)


@pytest.fixture(scope="module")
def whole():
  return tiny.params(CONFIG)


@pytest.fixture(scope="module")
def weights(whole):
  return tiny.weights(MODEL, whole)


def make_groups():
  """More rows of 256 slots than one chunk holds."""
  noise = np.random.default_rng(3)
  sizes = [(30, 40, 50), (3, 1, 2), (90, 80, 70), (8, 100)] * 3
  return [
    tiny.random_group(noise, f"f:{n}", *size) for n, size in enumerate(sizes)
  ]


@pytest.fixture(scope="module")
def groups():
  made = make_groups()
  assert len(states._rows(made, 256)) > states.CHUNK_ROWS
  return made


def sequences(groups):
  """(group, k, its prompt + completion) of some groups."""
  for n in (0, 1, 7, 10):
    for k, completion in enumerate(groups[n].completions):
      yield groups[n], k, np.concatenate([groups[n].prompt, completion])


# The numbers.


def test_trunk_states_are_those_of_every_sequence_alone(
  groups, weights, tmp_path
):
  look_up = states.trunk_states(MODEL, weights.trunk, groups, tmp_path)
  first = jax.tree.map(lambda p: p[0], weights.trunk["blocks"])
  for group, k, ids in sequences(groups):
    found, start = look_up(group), len(group.prompt)
    sizes = [len(c) for c in group.completions]
    assert found.shape == (start + sum(sizes), CONFIG.width)
    assert found.dtype == np.float32
    at = start + sum(sizes[:k])
    own = np.concatenate([found[:start], found[at : at + sizes[k]]])
    embedded = weights.trunk["embed"]["embedding"][ids]
    wanted = plain_model.block(CONFIG, first, embedded)
    tiny.assert_near(own, wanted, 1e-5)


@pytest.mark.parametrize("from_trunk", [False, True])
def test_reference_logps_are_those_of_every_sequence_alone(
  from_trunk, groups, whole, weights, tmp_path
):
  trunk = None
  if from_trunk:
    trunk = states.trunk_states(MODEL, weights.trunk, groups, tmp_path)
  look_up = states.reference_logps(MODEL, weights, groups, tmp_path, trunk)
  for group, k, ids in sequences(groups):
    found, count = look_up(group), len(group.completions[k])
    assert [len(x) for x in found] == [len(c) for c in group.completions]
    wanted = plain_model.logps(CONFIG, whole, ids)[-count:]
    tiny.assert_near(found[k], wanted, 1e-5)


def test_reward_scores_are_read_after_every_token(
  groups, whole, weights, tmp_path
):
  head = heads.init_reward_head(jax.random.key(0), CONFIG.width)
  look_up = states.reward_scores(MODEL, weights, head, groups, tmp_path)
  for group, k, ids in sequences(groups):
    count = len(group.completions[k])
    own = plain_model.states(CONFIG, whole, ids)[-count:]
    wanted = own @ np.asarray(head["kernel"]) + float(head["bias"])
    np.testing.assert_allclose(look_up(group)[k], wanted, atol=2e-5)


def test_layout_spelled_out():
  one = tiny.group("f:1", [7, 8], [3], [4, 5])
  two = tiny.group("f:2", [9], [6])
  tokens, places, place, after, target = states._lay_out(
    [one, two], [[(0, 0), (1, 5)], []], 8, 5
  )
  assert tokens.tolist() == [[7, 8, 3, 4, 5, 9, 6, 0], [0] * 8]
  assert places.positions.tolist() == [[0, 1, 2, 2, 3, 0, 1, 0], [0] * 8]
  assert places.branch.tolist() == [[0, 0, 1, 2, 2, 0, 1, 0], [0] * 8]
  assert places.group.tolist() == [[1, 1, 1, 1, 1, 2, 2, 0], [0] * 8]
  assert target.tolist() == [[3, 4, 5, 6, 0], [0] * 5]
  assert place.tolist() == [[1, 1, 3, 5, 0], [0] * 5]
  assert after.tolist() == [[2, 3, 4, 6, 0], [0] * 5]


# The key.


@pytest.fixture
def computed(monkeypatch):
  """Counts chunks of rows; the numbers themselves are made up."""
  calls = []

  def states_of(model, trunk, tokens, places):
    calls.append("states")
    return np.full((*tokens.shape, CONFIG.width), len(calls), np.float32)

  def numbers(model, weights, tokens, places, trunk, place, target):
    calls.append("logps")
    return np.full(place.shape, len(calls), np.float32)

  monkeypatch.setattr(states, "_row_states", states_of)
  monkeypatch.setattr(states, "_row_logps", numbers)
  return calls


def with_token_changed(groups):
  tokens = groups[4].completions[1].copy()
  tokens[-1] = (tokens[-1] + 1) % 53
  both = (groups[4].completions[0], tokens)
  changed = dataclasses.replace(groups[4], completions=both)
  return [*groups[:4], changed, *groups[5:]]


def with_a_boundary_moved(groups):
  """The same tokens in the same order, one more of them in the prompt."""
  prompt, first = groups[0].prompt, groups[0].completions[0]
  moved = dataclasses.replace(
    groups[0],
    prompt=np.concatenate([prompt, first[:1]]),
    completions=(first[1:], *groups[0].completions[1:]),
  )
  return [moved, *groups[1:]]


def nudged(tree):
  leaves, structure = jax.tree.flatten(tree)
  leaves[0] = leaves[0].copy()
  leaves[0].flat[-1] += np.float32(1e-6)
  return structure.unflatten(leaves)


CHANGES = {
  "token": lambda m, w, g: (m, w, with_token_changed(g)),
  "boundary": lambda m, w, g: (m, w, with_a_boundary_moved(g)),
  "order": lambda m, w, g: (m, w, g[::-1]),
  "weight": lambda m, w, g: (
    m,
    dataclasses.replace(w, trunk=nudged(w.trunk)),
    g,
  ),
  "dtype": lambda m, w, g: (dataclasses.replace(m, dtype="bfloat16"), w, g),
  "depth": lambda m, w, g: (dataclasses.replace(m, trunk_blocks=2), w, g),
  "rotation": lambda m, w, g: (
    dataclasses.replace(
      m, config=dataclasses.replace(m.config, rope_theta=51.0)
    ),
    w,
    g,
  ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("kind", ["states", "logps"])
def test_whatever_the_numbers_follow_from_is_in_the_key(
  kind, change, weights, groups, tmp_path, computed
):
  def make(model, weights, groups):
    if kind == "states":
      look_up = states.trunk_states(model, weights.trunk, groups, tmp_path)
    else:
      look_up = states.reference_logps(model, weights, groups, tmp_path)
    return np.ravel(look_up(groups[0])[0])[0]

  first = make(MODEL, weights, groups)
  assert computed and set(computed) == {kind}
  before = len(computed)
  copies = make_groups()
  equal = jax.tree.map(np.copy, weights)
  assert make(MODEL, equal, copies) == first
  assert len(computed) == before
  make(*change(MODEL, weights, groups))
  assert len(computed) > before


def test_completions_are_not_confused_with_the_next_prompt():
  one, two = tiny.group("a", [1], [2], [3]), tiny.group("b", [4], [5])
  other = tiny.group("a", [1], [2]), tiny.group("b", [3], [4], [5])
  assert states.tokens_fingerprint([one, two]) != states.tokens_fingerprint(
    other
  )


def test_fingerprint_tells_names_shapes_and_dtypes_apart():
  x = np.arange(4, dtype=np.float32)
  trees = [
    {"a": x},
    {"b": x},
    {"a": x.reshape(2, 2)},
    {"a": x.view(np.int32)},
    {"a": -x},
    {"a": x, "b": np.float32(0)},
  ]
  assert len({states.fingerprint(tree) for tree in trees}) == len(trees)
  assert states.fingerprint({"a": jax.numpy.asarray(x)}) == states.fingerprint(
    {"a": x}
  )


def test_look_ups_hold_their_groups(weights, tmp_path, computed):
  """Identities of freed objects are given again."""
  made = make_groups()
  last = made[-1]
  look_up = states.reference_logps(MODEL, weights, made, tmp_path)
  known = {id(group) for group in made}
  del made
  fresh = [make_groups() for _ in range(3)]
  assert not known & {id(g) for more in fresh for g in more}
  assert len(look_up(last)[0]) == len(last.completions[0])


# The files.


def test_an_interrupted_computation_leaves_no_usable_file(
  groups, weights, tmp_path, monkeypatch
):
  real, calls = states._row_states, []

  def stopped(*inputs):
    calls.append(1)
    if len(calls) == 2:
      raise KeyboardInterrupt
    return real(*inputs)

  monkeypatch.setattr(states, "_row_states", stopped)
  with pytest.raises(KeyboardInterrupt):
    states.trunk_states(MODEL, weights.trunk, groups, tmp_path)
  assert not list(tmp_path.glob("*.npy"))
  again = states.trunk_states(MODEL, weights.trunk, groups, tmp_path)
  assert len(calls) > 3  # from the first chunk
  monkeypatch.undo()
  other = states.trunk_states(MODEL, weights.trunk, groups, tmp_path / "b")
  for group in groups:
    np.testing.assert_array_equal(again(group), other(group))


def test_frozen_blocks_whose_states_are_given_stay_on_the_host(
  groups, weights, tmp_path
):
  sent = []
  watch = dataclasses.replace(
    states.ONE, weights=lambda tree: sent.append(tree) or tree
  )
  trunk = states.trunk_states(MODEL, weights.trunk, groups, tmp_path)
  head = {"kernel": np.ones(CONFIG.width, np.float32), "bias": np.float32(0)}
  own = MODEL, weights
  given = states.reference_logps(
    *own, groups, tmp_path / "a", trunk, devices=watch
  )
  states.reward_scores(*own, head, groups, tmp_path / "a", trunk, devices=watch)
  assert len(sent) == 2 and all("blocks" not in own.trunk for own in sent)
  live = states.reference_logps(*own, groups, tmp_path / "b", devices=watch)
  assert "blocks" in sent[-1].trunk
  for a, b in zip(given(groups[0]), live(groups[0]), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
