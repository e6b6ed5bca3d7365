"""Draws of one small model: by seed and row, whatever else is drawn with it."""

import types

import jax
import numpy as np
import pytest

from tests import tiny
from tests.online import samples
from xpo_jax import config, parallel
from xpo_jax.online import draw
from xpo_jax.rollout.mixture import Mixture
from xpo_jax.trio import Frozen
from xpo_jax.types import TrainState

END, K, NEW = 3, 2, 6
PROMPTS = samples.prompts(4)


def job(seed=0, **rollout):
  c = config.base("tiny").unlock()
  c.seed, c.data.max_completion_length = seed, NEW
  c.rollout.completions = K
  c.rollout.update(rollout)
  return types.SimpleNamespace(
    config=c,
    mesh=parallel.make_mesh(1, 1, 1, jax.devices()[:1]),
    objective=types.SimpleNamespace(model=tiny.MODEL),
    frozen=tiny.frozen(),
  )


def state(ema=None):
  return TrainState(
    step=0,
    params=tiny.policy(),
    opt_state=None,
    key=None,
    method_state=None,
    skipped=0,
    ema_params=ema,
  )


def policy(job, prompts=PROMPTS, rows=range(4)):
  drawer = draw.make_drawer(job, PROMPTS, END)
  return draw.policy(drawer, state(), prompts, np.array(rows))


def same(found, wanted):
  np.testing.assert_array_equal(found.tokens, wanted.tokens)
  np.testing.assert_array_equal(found.mask, wanted.mask)
  np.testing.assert_array_equal(found.ended, wanted.ended)
  np.testing.assert_allclose(found.logps, wanted.logps, atol=1e-5)


@pytest.fixture(scope="module")
def whole():
  return policy(job())


def test_padding_is_blank_and_ends_are_ends(whole):
  assert whole.tokens.shape == whole.mask.shape == (4, K, NEW)
  assert not whole.tokens[~whole.mask].any()
  assert not whole.logps[~whole.mask].any() and (whole.logps <= 0).all()
  for b, k in np.ndindex(4, K):
    ids = whole.ids(b, k)
    assert len(ids) == whole.mask[b, k].sum() >= 1
    assert END not in ids[:-1]
    assert whole.ended[b, k] == (ids[-1] == END)
    assert whole.ended[b, k] or len(ids) == NEW


@pytest.mark.parametrize("slots", [3])
def test_slots_change_no_token(whole, slots):
  same(policy(job(slots=slots)), whole)


def test_noise_is_the_rows(whole):
  """The same rows in another order and other places draw the same."""
  order = [2, 0, 3, 1]
  moved = policy(job(), [PROMPTS[i] for i in order], order)
  same(moved, draw.Drawn(*(x[order] for x in whole)))
  other = policy(job(), rows=range(4, 8))
  assert (other.tokens != whole.tokens).any()
  one = policy(job(), [PROMPTS[0]] * 4, [5, 5, 6, 5])
  same(draw.Drawn(*(x[[0]] for x in one)), draw.Drawn(*(x[[1]] for x in one)))
  assert (one.tokens[0] != one.tokens[2]).any()


def test_noise_is_the_seeds(whole):
  assert (policy(job(seed=1)).tokens != whole.tokens).any()


def test_an_opponent_draws_noise_of_its_own(whole):
  """An average that stands at the policy would else write the same."""
  own = job(opponent="ema")
  drawer = draw.make_drawer(own, PROMPTS, END)
  ema = tiny.policy()["policy"]
  found = draw.opponent(drawer, state(ema), PROMPTS, np.arange(4))
  assert (found.tokens != whole.tokens).any()


def test_whose_weights_an_opponent_has():
  ema, frozen = {"top": tiny.params(4)}, Frozen(reference=tiny.params(1))
  own = state(ema)
  find = lambda **how: draw.opponent_weights(job(**how).config, own, frozen)
  assert find(opponent="ema").top is ema["top"]
  assert find(opponent="reference").top is frozen.reference
  both = find(opponent="mixture", mix=0.4)
  assert isinstance(both, Mixture) and both.share == 0.4
  assert both.policy.top is own.params["policy"]["top"]
  assert both.reference.top is frozen.reference


def test_the_width_holds_the_longest_prompt():
  width = lambda longest: (
    draw.make_drawer(
      job(), samples.prompts(3, low=longest, high=longest), END
    ).width
  )
  assert [width(n) for n in (1, 16, 17)] == [16, 16, 32]
