"""Every class of `needs` through a real tiny model, whole and in parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny
from xpo_jax import methods
from xpo_jax.models import heads
from xpo_jax.step import make_train_step
from xpo_jax.types import Feedback, TrainState

# One method a class of needs; the rest of the registry shares these classes.
CLASSES = [
  "dpo",  # reference
  "simpo",  # policy alone
  "rm_bt",  # scores
  "rm_token",  # token scores
  "kto",  # mismatched completion, coupled
  "beta_dpo",  # noise and state, coupled
  "tdpo2",  # forward KL
  "wpo",  # log collision
  "cringe",  # contrast, two denominators
  "pairwise_cringe",  # contrast
  "dro",  # values
]


def _members(method):
  kind = next(k for k in _KINDS if k in method.feedback)
  made = tiny.members(tiny.objective("dpo"), 8)
  feedback, count = _KINDS[kind]
  if method.completions[0] == 1 and method.id != "kto":
    count = 1
  return [
    dataclasses.replace(
      g,
      completions=g.completions[:count],
      ended=g.ended[:count],
      feedback=tuple(feedback(n)[:count]),
      kind=kind,
    )
    for n, g in enumerate(made)
  ]


_KINDS = {
  Feedback.ORDER: (lambda n: (1.0, 0.0), 2),
  Feedback.BINARY: (lambda n: (1.0 if n % 3 else -1.0, 0.0), 2),
  Feedback.SCORE: (lambda n: (0.1 * n - 0.3, 0.2), 2),
}


def _start(objective):
  params = tiny.policy()
  method, settings = objective.method, objective.settings
  head = heads.init_reward_head(jax.random.key(5), tiny.CONFIG.width)
  if method.trains_reward:
    params["policy"]["reward_head"] = head
  if "values" in method.needs(settings):
    params["value"] = {"top": tiny.params(3), "head": head}
  make = method.init_state
  tx = optax.sgd(0.1)
  return tx, TrainState(
    step=jnp.zeros((), jnp.int32),
    params=jax.tree.map(jnp.asarray, params),
    opt_state=tx.init(params),
    key=jax.random.key(0),
    method_state=make(settings) if make else None,
    skipped=jnp.zeros((), jnp.int32),
  )


# mesh_needs_test.py has all of them, on meshes too.
FAST = ["kto", "beta_dpo", "tdpo2", "cringe", "dro", "rm_token"]


@pytest.mark.parametrize("name", FAST)
def test_microbatches_change_nothing(name):
  objective = tiny.objective(name)
  members = _members(objective.method)
  tx, state = _start(objective)
  step = make_train_step(objective, tx, lambda s: 0.1)
  step = jax.jit(step, compiler_options=tiny.QUICK)
  ends = []
  for count in (1, 4):
    end, metrics = step(state, tiny.frozen(), tiny.batch(members, count))
    ends.append((end.params, end.method_state, metrics))
  assert np.isfinite(ends[0][2]["loss"])
  assert tiny.far(ends[0][0], state.params) > 1e-5
  assert tiny.far(*[(e[0], e[1]) for e in ends]) < 2e-6
  np.testing.assert_allclose(
    ends[0][2]["loss"], ends[1][2]["loss"], rtol=1e-5, atol=1e-6
  )


def test_value_model_moves_alone():
  objective = tiny.objective("dro")
  tx, state = _start(objective)
  step = make_train_step(objective, tx, lambda s: 0.1)
  step = jax.jit(step, compiler_options=tiny.QUICK)
  batch = tiny.batch(_members(objective.method))
  end, _ = step(state, tiny.frozen(), batch)
  assert tiny.far(end.params["value"], state.params["value"]) > 1e-5
  frozen_policy = objective.score(
    state.params,
    tiny.frozen(),
    jax.tree.map(lambda a: a[0], batch),
    0,
    jax.random.key(0),
    True,
  )
  assert frozen_policy.values.shape == frozen_policy.policy_logps.shape


def test_the_registry_has_no_other_class_of_needs():
  names = {"reference_logps", "mismatched_completion", "comparison", "noise"}
  covered = set().union(*(methods.get(n).needs({}) for n in CLASSES)) | names
  columns = {"sampler_logps", "old_values", "advantages", "token_feedback"}
  for name in methods.names():
    assert methods.get(name).needs({}) <= covered | columns, name
