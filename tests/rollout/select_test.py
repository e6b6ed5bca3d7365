"""Selection against the sequential algorithms, written out, and in law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xpo_jax.rollout import select
from xpo_jax.rollout.select import Selection

ALL = np.ones((1, 3), bool)


def sequential(texts, rewards, uniforms, count, beta):
  """RSO's algorithm on texts, candidate by candidate.

  rewards are numbers or None (invalid); uniforms [pass][candidate].
  """
  unique = {}
  for place, (text, reward) in enumerate(zip(texts, rewards, strict=True)):
    if reward is not None and text not in unique:
      unique[text] = place
  remaining = list(unique.values())
  count = min(count, len(remaining))
  accepted, number = [], 0
  while len(accepted) < count:
    highest = max(rewards[c] for c in remaining)
    for c in remaining:
      gap = rewards[c] - highest
      bound = 1.0 if gap == 0 or beta == np.inf else 0.0
      if gap != 0 and 0 < beta < np.inf:
        bound = np.exp(np.float64(gap) / beta)
      if uniforms[number][c] < bound:
        accepted.append(c)
        if len(accepted) == count:
          break
    remaining = [c for c in remaining if c not in accepted]
    number += 1
  return accepted, number


@pytest.mark.parametrize("count", [4, 9])
def test_bit_equal_with_the_sequential_algorithm(count):
  noise = np.random.default_rng(count)
  b, k = 60, 7
  texts = noise.integers(0, 5, (b, k)).astype(str).tolist()
  texts[0] = ["same"] * k
  rewards = noise.normal(size=(b, k)).astype(np.float32).round(1)
  invalid = noise.random((b, k)) < 0.2
  invalid[1] = True
  rewards[invalid] = noise.choice([np.nan, np.inf, -np.inf], invalid.sum())
  uniforms = noise.random((b, count, k), np.float32)
  own = [
    [None if bad else float(r) for r, bad in zip(rs, bads, strict=True)]
    for rs, bads in zip(rewards, invalid, strict=True)
  ]
  valid = select.first_occurrences(texts, ~invalid)
  run = jax.jit(select.rejection_sample, static_argnums=3)
  partial = 0
  for beta in (0.0, 0.1, 0.5, np.inf):
    found = run(rewards, valid, uniforms, count, beta)
    for n in range(b):
      wanted, passes = sequential(texts[n], own[n], uniforms[n], count, beta)
      kept = np.asarray(found.kept[n])
      assert kept.sum() == len(wanted) and not (np.diff(kept * 1) > 0).any()
      assert np.asarray(found.index[n])[kept].tolist() == wanted, (beta, n)
      assert not np.asarray(found.index[n])[~kept].any()
      assert int(found.passes[n]) == passes
      partial += 0 < len(wanted) < count
  assert partial > 5  # lists shorter than asked for were among them


def test_golden():
  """r = [1, .5, 0], beta = .5; U = [.9, .5, .1] accepts 0 and 2."""
  r = jnp.asarray([[1.0, 0.5, 0.0]])
  p = select.accept_probability(r, r[:, :1], jnp.asarray(0.5))
  np.testing.assert_allclose(p, [[1, 0.3678794412, 0.1353352832]], rtol=1e-6)
  u = jnp.asarray([[[0.9, 0.5, 0.1]] * 2])
  found = select.rejection_sample(r, ALL, u, 2, 0.5)
  assert found.index.tolist() == [[0, 2]] and found.passes.tolist() == [1]
  np.testing.assert_allclose(found.first_rate, 2 / 3, rtol=1e-6)
  # It stops inside a pass: with n = 1 the third candidate is never reached.
  assert select.rejection_sample(r, ALL, u, 1, 0.5).index.tolist() == [[0]]


def test_ends_of_beta():
  r = jnp.asarray([[0.2, 0.9, 0.2, -1.0, 0.9]])
  every = np.ones((1, 5), bool)
  u = jnp.full((1, 4, 5), 0.999999)
  take = lambda beta: select.rejection_sample(r, every, u, 4, beta).index
  assert take(0.0).tolist() == [[1, 4, 0, 2]]
  assert take(jnp.inf).tolist() == [[0, 1, 2, 3]]


def test_too_few_uniforms():
  with pytest.raises(ValueError, match="2 passes of uniforms; want 3"):
    select.rejection_sample(ALL * 1.0, ALL, jnp.zeros((1, 2, 3)), 3, 1.0)


def test_first_pass_follows_the_optimal_policy():
  """4e5 draws of pi_ref on 6 symbols: TV < .005, chi2 below its 99.9%."""
  noise = np.random.default_rng(0)
  reference = np.array([0.3, 0.25, 0.2, 0.15, 0.07, 0.03])
  r = np.array([0.0, 0.3, -0.5, 1.0, 0.6, 1.4], np.float32)
  beta, draws = 0.5, 400_000
  drawn = noise.choice(6, draws, p=reference)
  # The maximum over all symbols comes first, then one draw of pi_ref.
  scores = np.stack([np.full(draws, r.max()), r[drawn]], axis=-1)
  u = noise.random((draws, 2, 2), np.float32)
  found = select.rejection_sample(
    jnp.asarray(scores), np.ones((draws, 2), bool), jnp.asarray(u), 2, beta
  )
  accepted = np.asarray(found.passes) == 1
  counts = np.bincount(drawn[accepted], minlength=6)
  weight = reference * np.exp(r.astype(np.float64) / beta)
  target = weight / weight.sum()
  total = counts.sum()
  assert 0.5 * np.abs(counts / total - target).sum() < 0.005
  expected = total * target
  assert ((counts - expected) ** 2 / expected).sum() < 20.515  # 5 degrees
  rate = np.sum(reference * np.exp((r.astype(np.float64) - r.max()) / beta))
  sigma = np.sqrt(rate * (1 - rate) / draws)
  assert abs(accepted.mean() - rate) < 4 * sigma


def test_keys_draw_the_noise_of_a_row():
  """A prompt's draw does not depend on the batch it is in."""
  r = jax.random.normal(jax.random.key(0), (5, 12))
  valid = jnp.ones((5, 12), bool)
  key = jax.random.key(7)
  whole = select.sample_rejection(key, r, valid, 4, 0.5)
  part = select.sample_rejection(
    key, r[3:], valid[3:], 4, 0.5, rows=jnp.asarray([3, 4])
  )
  assert part.index.tolist() == whole.index[3:].tolist()
  other = select.sample_rejection(jax.random.key(8), r, valid, 4, 0.5)
  assert other.index.tolist() != whole.index.tolist()
  own = jax.random.fold_in(key, 2)
  u = [jax.random.uniform(jax.random.fold_in(own, p), (12,)) for p in range(4)]
  by_hand = select.rejection_sample(
    r[2:3], valid[2:3], jnp.stack(u)[None], 4, 0.5
  )
  assert by_hand.index[0].tolist() == whole.index[2].tolist()


def test_prompts_may_lie_on_many_devices():
  mesh = jax.make_mesh(
    (8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  r = jax.random.normal(jax.random.key(0), (16, 12))
  run = jax.jit(lambda *own: select.sample_rejection(*own, 4, 0.5))
  args = jax.random.key(7), r, jnp.ones((16, 12), bool)
  alone = run(*args)
  spread = run(args[0], *(jax.device_put(x, rows) for x in args[1:]))
  assert spread.index.sharding.is_equivalent_to(rows, 2)
  jax.tree.map(np.testing.assert_array_equal, spread, alone)


def test_keep_all():
  scores = jnp.asarray([[1.0, jnp.nan, 0.0], [2.0, 2.0, 2.0]])
  valid = jnp.asarray([[True, True, True], [False, True, True]])
  found = select.keep_all(scores, valid)
  kept = [[[True, False, True]], [[False, True, True]]]
  assert found.kept.tolist() == kept
  assert found.index.tolist() == [[[0, 0, 2]], [[0, 1, 2]]]


def test_best_worst():
  scores = jnp.asarray(
    [[1, 3, 3, 1], [2, 2, 2, 2], [9, 1, 2, 9], [1, 2, 3, 4]], jnp.float32
  )
  valid = np.ones((4, 4), bool)
  valid[2, [0, 3]] = False
  valid[3] = [False, True, False, False]
  found = select.best_worst(scores.at[0, 3].set(jnp.nan), valid)
  assert found.index[:, 0].tolist() == [[1, 0], [0, 0], [2, 1], [0, 0]]
  kept = [[True, True], [False, False], [True, True], [False, False]]
  assert found.kept[:, 0].tolist() == kept


def test_best_of_n():
  scores = jnp.asarray([[1.0, 5.0, 5.0], [7.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
  valid = jnp.asarray([[True] * 3, [False, True, True], [False] * 3])
  found = select.best_of_n(scores, valid)
  assert found.index[:, 0, 0].tolist() == [1, 2, 0]
  assert found.kept[:, 0, 0].tolist() == [True, True, False]


def accepted(index, count=None):
  index = np.asarray([index], np.int32)
  kept = np.arange(index.shape[1]) < (
    index.shape[1] if count is None else count
  )
  return Selection(jnp.asarray(index[:, None]), jnp.asarray(kept[None, None]))


def cyclic(k=3):
  """Rock-paper-scissors: i beats i + 1."""
  wins = np.full((k, k), 0.5)
  for i in range(k):
    wins[i, (i + 1) % k], wins[(i + 1) % k, i] = 0.9, 0.1
  return jnp.asarray(wins[None])


def test_first_round():
  """Shuffled by the uniforms to 4 0 | 2 1 | (3): 0 beats 4, 1 beats 2."""
  wins = np.full((1, 5, 5), 0.5)
  wins[0, 4, 0], wins[0, 2, 1] = 0.2, 0.3
  u = jnp.asarray([[0.2, 0.4, 0.3, 0.9, 0.1]])
  found = select.first_round(accepted([0, 1, 2, 3, 4]), jnp.asarray(wins), u)
  assert found.index.tolist() == [[[0, 4], [1, 2]]]
  assert found.kept.all()
  # A tie is the first's, in the shuffled order.
  tied = select.first_round(
    accepted([0, 1, 2, 3, 4]), jnp.full((1, 5, 5), 0.5), u
  )
  assert tied.index.tolist() == [[[4, 0], [2, 1]]]


def test_first_round_of_few_and_of_unjudged():
  u = jnp.asarray([[0.9, 0.1, 0.0, 0.0]])
  found = select.first_round(accepted([2, 0, 0, 0], 2), cyclic(), u)
  # 0 beats 1, 1 beats 2, 2 beats 0; the order is 0, 2.
  assert found.index.tolist() == [[[2, 0], [0, 0]]]
  assert found.kept[..., 0].tolist() == [[True, False]]
  wins = jnp.full((1, 3, 3), jnp.nan)
  assert not select.first_round(accepted([0, 1]), wins, u[:, :2]).kept.any()


def test_tournament_with_a_bye():
  """0-1: 0; 2-3: 3; 4 bye; then 0-3: 3; 4 bye; then 3-4: a tie, 3 is first."""
  wins = np.full((1, 5, 5), 0.5)
  wins[0, 0, 1], wins[0, 2, 3], wins[0, 0, 3] = 0.8, 0.4, 0.1
  games, best, played = select.tournament(
    accepted([0, 1, 2, 3, 4]), jnp.asarray(wins)
  )
  assert games.index.tolist() == [[[0, 1], [3, 2], [3, 0], [3, 4]]]
  assert games.kept.all() and best.tolist() == [3] and played.all()


def test_tournament_of_a_cycle_and_of_one():
  games, best, _ = select.tournament(accepted([0, 1, 2]), cyclic())
  assert games.index.tolist() == [[[0, 1], [2, 0]]] and best.tolist() == [2]
  games, best, played = select.tournament(accepted([2]), cyclic())
  assert games.index.shape == (1, 0, 2)
  assert best.tolist() == [2] and played.all()
  games, _, played = select.tournament(accepted([0, 0, 0], 0), cyclic())
  assert not games.kept.any() and not played.any()
