"""Beam search against lists of candidates; credit against a tabular MDP."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from tests import plain_model
from tests import tiny_models as tiny
from xpo_jax.models.model import Model
from xpo_jax.rollout import search

CONFIG = dataclasses.replace(tiny.TIED, layers=1)
MODEL = Model(CONFIG)
PROMPTS = ([5, 9, 2], [7, 30])
EOS, WIDTH, NEW = 2, 3, 5


def naive(whole, prompt, penalty):
  """[(tokens, log-prob)], the best first; whole sequences, no cache."""
  rank = lambda beam: beam[1] / len(beam[0]) ** penalty
  beams = [((), 0.0)]
  for _ in range(NEW):
    candidates = [b for b in beams if b[0][-1:] == (EOS,)]
    for tokens, total in beams:
      if tokens[-1:] == (EOS,):
        continue
      ids = np.array([*prompt, *tokens])
      x = plain_model.logits(CONFIG, whole, ids)[-1].astype(float)
      logps = x - x.max() - np.log(np.exp(x - x.max()).sum())
      candidates += [((*tokens, v), total + p) for v, p in enumerate(logps)]
    beams = sorted(candidates, key=rank, reverse=True)[:WIDTH]
  return beams


@pytest.mark.parametrize(
  "penalty", [1.0, pytest.param(0.0, marks=pytest.mark.slow)]
)
def test_the_beams_are_those_of_a_plain_search(penalty):
  whole = tiny.params(CONFIG)
  whole["final_norm"]["scale"] *= 0.4
  tokens = np.array([[5, 9, 2], [7, 30, 50]], np.int32)
  lengths = np.array([3, 2], np.int32)
  ended = 0
  found, scores = search.beam_search(
    MODEL,
    tiny.weights(MODEL, whole),
    tokens,
    lengths,
    search.Beams(WIDTH, NEW, EOS, penalty),
  )
  found = jax.tree.map(np.asarray, found)
  for b, prompt in enumerate(PROMPTS):
    for w, (wanted, total) in enumerate(naive(whole, prompt, penalty)):
      n = len(wanted)
      assert found.tokens[b, w, :n].tolist() == list(wanted)
      assert found.mask[b, w].sum() == n
      assert found.ended[b, w] == (wanted[-1] == EOS)
      np.testing.assert_allclose(found.sampler_logps[b, w].sum(), total, 1e-4)
      np.testing.assert_allclose(scores[b, w], total / n**penalty, 1e-4)
      ended += found.ended[b, w] and n < NEW
  assert ended


def test_credit_is_reward_plus_the_difference_of_values():
  """Two steps, three actions; V by backward induction, to 1e-10."""
  noise, beta = np.random.default_rng(0), 0.3
  reference = noise.dirichlet(np.ones(3), (4,))  # of the start, then of each
  rewards = noise.normal(size=(4, 3))  # r(s, a)
  soft = lambda p, q: beta * np.log((p * np.exp(q / beta)).sum())
  second = np.array([soft(reference[1 + a], rewards[1 + a]) for a in range(3)])
  q = [rewards[0] + second, *rewards[1:]]  # Q(s, a)
  value = [soft(reference[s], q[s]) for s in range(4)]
  policy = [reference[s] * np.exp((q[s] - value[s]) / beta) for s in range(4)]
  np.testing.assert_allclose([p.sum() for p in policy], 1, atol=1e-12)
  paths = list(itertools.product(range(3), range(3)))
  logps = lambda p: np.log([[p[0][a], p[1 + a][b]] for a, b in paths])[None]
  mask = np.ones((1, 9, 2), bool)
  with jax.enable_x64(True):
    credit, to_go = search.token_credit(
      logps(policy), logps(reference), mask, beta
    )
  for i, (a, b) in enumerate(paths):
    wanted = [
      rewards[0, a] + value[1 + a] - value[0],
      rewards[1 + a, b] - value[1 + a],
    ]
    np.testing.assert_allclose(credit[0, i], wanted, atol=1e-10)
    total = rewards[0, a] + rewards[1 + a, b]
    np.testing.assert_allclose(
      to_go[0, i],
      [total - value[0], rewards[1 + a, b] - value[1 + a]],
      atol=1e-10,
    )


def test_credit_stops_at_the_mask():
  one = np.full((1, 1, 3), -1.0, np.float32)
  mask = np.array([[[True, True, False]]])
  credit, to_go = search.token_credit(one, one * [1, 2, np.nan], mask, 2.0)
  assert credit.tolist() == [[[0.0, 2.0, 0.0]]]
  assert to_go.tolist() == [[[2.0, 2.0, 0.0]]]
