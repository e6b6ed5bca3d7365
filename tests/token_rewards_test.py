"""Rewards of single tokens, against the plain model in numpy."""

import dataclasses
import types

import jax
import numpy as np

from tests import plain_model
from tests import tiny_models as tiny
from tests.tiny import QUICK
from xpo_jax import (
  group_numbers,
  implicit,
  methods,
  parallel,
  score_forward,
  token_rewards,
)
from xpo_jax.models.model import Model
from xpo_jax.online import rollout
from xpo_jax.trio import Frozen

CONFIG = dataclasses.replace(tiny.CONFIG, layers=2)
WEIGHTS = tiny.params(CONFIG, 3)
KERNEL = np.random.default_rng(4).normal(size=CONFIG.width).astype(np.float32)


def scorer():
  """A token reward model of two layers, as `score_forward.load` opens one."""
  method = methods.get("rm_token")
  head = {"kernel": KERNEL, "bias": np.float32(0.3)}
  make = score_forward.make_score(
    Model(CONFIG), method, implicit.define(method, {"aggregate": "sum"}, None)
  )
  return score_forward.Scorer(
    mesh=parallel.make_mesh(1, 1, 1, devices=jax.devices()[:1]),
    row_length=64,
    params={"policy": {"top": WEIGHTS, "reward_head": head}},
    frozen=Frozen(),
    score_batch=jax.jit(make, compiler_options=QUICK),
  )


def by_hand(group, k):
  """w . h + b of the state after every token of the completion."""
  ids = np.concatenate([group.prompt, group.completions[k]])
  after = plain_model.states(CONFIG, WEIGHTS, ids)[len(group.prompt) :]
  return after @ KERNEL + 0.3


def test_every_reward_stands_at_its_own_token(monkeypatch):
  """Also behind an empty place of a batch, and one sample that is absent."""
  tokenizer = types.SimpleNamespace(fingerprint=lambda: "same")
  run = types.SimpleNamespace(
    method=methods.get("rm_token"),
    settings={"aggregate": "sum"},
    tokenizer=tokenizer,
    folder="runs/rm",
    step=7,
    config=None,
  )
  monkeypatch.setattr(token_rewards.score, "open_run", lambda source: run)
  monkeypatch.setattr(score_forward, "load", lambda *_: scorer())
  monkeypatch.setattr(group_numbers, "ROWS", 2)
  made = tiny.pairs(4)
  none = np.zeros(0, np.int32)
  absent = (made[1].completions[0], none)
  made[1] = dataclasses.replace(made[1], completions=absent)
  groups = [made[0], None, made[1], made[2], made[3]]
  tools = dict.fromkeys(rollout.Tools._fields)
  tools |= {"token_rewards": token_rewards.open_run("runs/rm", tokenizer)}
  longest = max(len(c) for g in made for c in g.completions)
  x = types.SimpleNamespace(completion_mask=np.zeros((5, 2, longest + 1), bool))
  found = rollout.token_rewards(rollout.Tools(**tools), groups, x)
  wanted = np.zeros((5, 2, longest + 1))
  for b in (0, 2, 3, 4):
    for k, completion in enumerate(groups[b].completions):
      wanted[b, k, : len(completion)] = by_hand(groups[b], k)
  assert np.std(wanted) > 0.1
  np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)
