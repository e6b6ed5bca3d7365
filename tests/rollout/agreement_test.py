"""The trainer's log-probs of what was drawn, and what is done about gaps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny_models as tiny
from tests.rollout import sampler_test as base
from xpo_jax import pretrained
from xpo_jax.errors import Exit, XpoError
from xpo_jax.models.model import Model
from xpo_jax.rollout import agreement

HOW = base.HOW
# Windows, caps and an untied head: all that a family may do to a logit.
CONFIG = dataclasses.replace(
  tiny.CONFIG, layers=2, window=4, windowed=(True, False), logit_cap=9.0
)


def drawn(model, params):
  """Samples of the sampler's own tests, and the trainer's log-probs."""
  tokens, lengths = base.padded(base.PROMPTS)
  samples = base.generate(params, HOW, model=model)
  logps = agreement.trainer_logps(
    model,
    tiny.weights(model, params),
    tokens,
    lengths,
    samples,
    HOW.temperature,
  )
  mask = samples.mask
  assert mask.sum() > 20 and (np.asarray(logps)[~mask] == 0).all()
  return np.asarray(logps), samples


@pytest.mark.parametrize(
  "model",
  [base.MODEL, pytest.param(Model(CONFIG), marks=pytest.mark.slow)],
  ids=["plain", "windows"],
)
def test_the_trainer_agrees_with_the_sampler(model):
  params = base.make_whole() if model == base.MODEL else tiny.params(CONFIG)
  logps, samples = drawn(model, params)
  np.testing.assert_allclose(logps, samples.sampler_logps, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_bfloat16_stays_in_its_band():
  """Weights as models start with; those of the other tests are larger."""
  config = dataclasses.replace(CONFIG, width=64, mlp_width=128, vocab_size=256)
  model, every = Model(config, dtype="bfloat16"), []
  for seed in range(4):  # 60 tokens of one model are too few for a mean
    logps, samples = drawn(model, pretrained.random_params(model, seed))
    every.append((logps, samples.sampler_logps, samples.mask))
  found = agreement.compare(*map(np.concatenate, zip(*every)))
  assert 1e-5 < found["sampler/gap"] < 0.05
  assert found["sampler/ratio"] < 1.01
  assert agreement.check(found, "float32") == ""


def test_the_gap_is_measured_over_the_mask():
  trainer = jnp.array([[[-1.0, -2.0, -3.0]]])
  drawn = jnp.array([[[-1.1, -2.0, 50.0]]])
  mask = jnp.array([[[True, True, False]]])
  found = agreement.compare(trainer, drawn, mask)
  assert found["sampler/gap"] == pytest.approx(0.1, rel=1e-5)
  assert found["sampler/ratio"] == pytest.approx((np.exp(0.1) + 1) / 2)


@pytest.mark.parametrize(
  "dtype, ratio, words",
  [
    ("float32", 1.0, ""),
    ("float32", 1.019, ""),
    ("float32", 1.03, "exceeds 1.02"),
    ("bfloat16", 1.06, ""),  # what a real model of 30 blocks may show
    ("bfloat16", 1.11, "exceeds 1.1"),
  ],
)
def test_an_alarm_is_a_line(dtype, ratio, words):
  line = agreement.check({"sampler/ratio": jnp.float32(ratio)}, dtype)
  assert words in line and bool(line) == bool(words)


@pytest.mark.parametrize(
  "dtype, ratio",
  [("float32", 1.06), ("bfloat16", 1.26), ("bfloat16", np.nan)],
)
def test_a_large_gap_stops_the_run(dtype, ratio):
  with pytest.raises(XpoError, match="disagree") as e:
    agreement.check({"sampler/ratio": jnp.float32(ratio)}, dtype)
  assert e.value.code == Exit.NUMERIC


def test_importance_weights_are_truncated_and_frozen():
  trainer = jnp.array([[[0.0, np.log(1.5), np.log(9.0), 3.0]]])
  drawn = jnp.array([[[np.log(2.0), 0.0, 0.0, np.nan]]])
  mask = jnp.array([[[True, True, True, False]]])
  weigh = lambda x: agreement.importance_weights(x, drawn, mask, cap=2.0)
  np.testing.assert_allclose(weigh(trainer)[0, 0], [0.5, 1.5, 2, 0], rtol=1e-6)
  slope = jax.grad(lambda x: weigh(x).sum())(trainer)
  assert (slope == 0).all()


@pytest.mark.parametrize(
  "change, words",
  [
    (dict(temperature=0.0), "temperature=0 "),
    (dict(top_k=5), "top_k=5"),
    (dict(top_p=0.9), "top_p=0.9"),
  ],
)
def test_no_ratio_of_what_is_not_the_policys(change, words):
  agreement.check_ratio(HOW)
  with pytest.raises(XpoError, match=words):
    agreement.check_ratio(HOW.replace(**change))
