"""What a run opens once: options of the config that must not get lost."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.online.columns_test import LENGTHS, MASK, inputs
from xpo_jax import config, judge_config, placement_table
from xpo_jax.online import columns, draw, tools, trunk
from xpo_jax.types import Feedback


def make_job(monkeypatch, c):
  """A job that draws and scores nothing."""
  objective = tiny.objective("rloo", beta=0.0)
  for module, name in ((draw, "make_drawer"), (columns, "make_score"),
                       (trunk, "make")):  # fmt: skip
    monkeypatch.setattr(module, name, lambda *_: None)
  prompts = types.SimpleNamespace(groups=[])
  online = types.SimpleNamespace(train=prompts, held=None, end_id=1)
  return types.SimpleNamespace(
    config=c, objective=objective, online=online, train=prompts
  )


def test_one_table_has_every_model(monkeypatch):
  """What a judge has put on the devices stands under its name."""
  c, weights = config.base("tiny").unlock(), []
  c.judge.name, c.gold.name = "sentiment", "length"

  def build(section, where, seed):
    weights.append(jnp.ones(10 + len(weights)))
    return judge_config.Built(None, None, section.name, 0.0)

  shown = {}
  monkeypatch.setattr(judge_config, "build", build)
  monkeypatch.setattr(placement_table, "show", shown.update)
  tools.make(make_job(monkeypatch, c), lambda: None, {"policy": jnp.ones(3)})
  sizes = {name: sum(a.size for a in own) for name, own in shown.items() if
           name != "policy"}  # fmt: skip
  assert list(shown)[0] == "policy"
  assert sizes == {"judge (sentiment)": 10, "gold (length)": 11}


@pytest.mark.parametrize("cap", [0.0, 1.2])
def test_the_importance_cap_reaches_the_loss(monkeypatch, cap):
  """-A sum_t w_t logp_t of every sample, summed over a prompt's."""
  c = config.base("tiny").unlock()
  c.rollout.importance_cap = cap
  job = make_job(monkeypatch, c)
  objective = job.objective
  x = inputs(reference_logps=None)
  found = tools.make(job, lambda: None, {}).prepare(x)
  found = found.replace(feedback_kind=Feedback.SCORE)
  loss = objective.method.loss(found, **objective.settings).loss
  ratio = np.exp(x.policy_logps.astype(float) - x.sampler_logps)
  assert (ratio[MASK] > 1.2).any() and (ratio[MASK] < 1.2).any()
  weights = np.minimum(ratio, cap) if cap else np.ones(MASK.shape)
  wanted = np.zeros(3)
  for b, k in np.argwhere(LENGTHS > 0):
    others = [j for j in range(2) if LENGTHS[b, j] and j != k]
    a = sum(x.feedback[b, k] - x.feedback[b, j] for j in others)
    for at in range(LENGTHS[b, k]):
      wanted[b] -= a * weights[b, k, at] * x.policy_logps[b, k, at]
  np.testing.assert_allclose(loss, wanted, atol=1e-5)
