"""The compiled scores against the evaluation step of the same method."""

import jax
import numpy as np

from tests import tiny
from xpo_jax import implicit, score_forward
from xpo_jax.step import make_evaluate


def test_rewards_are_those_of_the_evaluation():
  """TDPO: log-ratios and a full-vocabulary KL at every token."""
  objective = tiny.objective("tdpo1", beta=0.3)
  members = tiny.members(objective, 4)
  batch = tiny.batch(members)
  params, frozen = tiny.policy(), tiny.frozen()
  reward = implicit.define(objective.method, objective.settings)
  make = score_forward.make_score(tiny.MODEL, objective.method, reward)
  found = jax.jit(make)(params, frozen, batch)
  evaluate = jax.jit(make_evaluate(objective))
  wanted = evaluate(params, None, frozen, batch)
  pairs = np.stack([wanted["rewards/chosen"], wanted["rewards/rejected"]], -1)
  np.testing.assert_allclose(found["rewards"], pairs, rtol=1e-5)
  without_kl = 0.3 * np.sum(found["logps"] - found["reference_logps"], axis=-1)
  kl = np.asarray(found["rewards"]) - without_kl
  assert np.all(kl > 0.01)
  sums = np.sum(found["credits"], axis=-1)
  np.testing.assert_allclose(sums, found["rewards"], rtol=1e-5)
