"""Frozen numbers of a rollout against arithmetic in numpy."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from tests import tiny
from tests.online import samples
from xpo_jax.data import planning
from xpo_jax.models import vocabulary
from xpo_jax.online import columns, groups
from xpo_jax.types import Feedback, LossInputs

P, K, T = 3, 2, 4
LENGTHS = np.array([[4, 2], [3, 0], [1, 4]])
MASK = np.arange(T) < LENGTHS[..., None]


def inputs(seed=0, **more):
  """Made-up numbers of 3 prompts; the second sample of prompt 1 is absent."""
  noise = np.random.default_rng(seed)
  draw = lambda mean: np.where(
    MASK, noise.normal(mean, 0.4, MASK.shape), 0.0
  ).astype(np.float32)
  found = LossInputs(
    policy_logps=draw(-2.0),
    completion_mask=MASK,
    present=LENGTHS > 0,
    ended=np.ones((P, K), bool),
    feedback=noise.normal(size=(P, K)).astype(np.float32),
    weight=np.ones(P, np.float32),
    reference_logps=draw(-2.1),
    sampler_logps=draw(-2.0),
  )
  return found.replace(**more)


def test_divergence_is_a_sum_over_tokens_and_a_mean_over_samples():
  x = inputs()
  k1, k3 = [], []
  for b, k in np.argwhere(LENGTHS > 0):
    n = LENGTHS[b, k]
    d = x.policy_logps[b, k, :n].astype(float) - x.reference_logps[b, k, :n]
    k1.append(d.sum())
    k3.append((np.exp(-d) - 1 + d).sum())
  found = columns.divergence(x)
  assert len(k1) == 5
  assert found["kl/k1"] == pytest.approx(np.mean(k1), rel=1e-5)
  assert found["kl/k3"] == pytest.approx(np.mean(k3), rel=1e-5)


def test_divergence_is_of_what_the_policy_drew():
  """NaN marks an opponent's sample; a prompt of weight 0 is not there."""
  x = inputs()
  x.sampler_logps[0, 1] = np.nan
  x.weight[2] = 0.0
  own = [(0, 0, 4), (1, 0, 3)]
  wanted = np.mean(
    [(x.policy_logps - x.reference_logps)[b, k, :n].sum() for b, k, n in own]
  )
  assert columns.divergence(x)["kl/k1"] == pytest.approx(wanted, rel=1e-5)


def test_without_a_reference_there_is_no_divergence():
  assert columns.divergence(inputs(reference_logps=None)) == {}


def test_the_gap_leaves_the_opponents_tokens_out():
  x = inputs()
  x.sampler_logps[:] = x.policy_logps + np.float32(0.01) * MASK
  x.sampler_logps[0, 0, 1] -= 0.25
  found = columns.gap(x)
  assert found["sampler/gap"] == pytest.approx(0.24, abs=1e-5)
  wanted = (13 * np.exp(0.01) + np.exp(0.24)) / 14
  assert found["sampler/ratio"] == pytest.approx(wanted, rel=1e-5)
  x.sampler_logps[0, 0] = np.nan
  found = columns.gap(x)
  assert found["sampler/gap"] == pytest.approx(0.01, abs=1e-5)
  assert found["sampler/ratio"] == pytest.approx(np.exp(0.01), rel=1e-5)


def leave_one_out(x, beta, logps):
  """RLOO's advantages, sample by sample; `logps` are the old ones."""
  out = np.zeros(MASK.shape)
  reward = {}
  for b, k in np.argwhere(LENGTHS > 0):
    n = LENGTHS[b, k]
    kl = (logps - x.reference_logps)[b, k, :n].sum()
    reward[b, k] = float(x.feedback[b, k]) - beta * kl
  for (b, k), own in reward.items():
    others = [r for (c, j), r in reward.items() if c == b and j != k]
    out[b, k, : LENGTHS[b, k]] = own - np.mean(others) if others else 0.0
  return out


@pytest.mark.parametrize("cap", [0.0, 1.2])
def test_the_old_log_probs_are_the_trainers(cap):
  x, objective = inputs(), tiny.objective("rloo", beta=0.5)
  found = columns.make_prepare(objective, cap)(x)
  wanted = leave_one_out(x, 0.5, x.policy_logps)
  if cap:
    ratio = np.exp(x.policy_logps.astype(float) - x.sampler_logps)
    assert (ratio[MASK] > cap).any() and (ratio[MASK] < cap).any()
    wanted = wanted * np.minimum(ratio, cap)
  np.testing.assert_allclose(found.advantages, wanted, atol=1e-5)
  np.testing.assert_array_equal(found.sampler_logps, x.policy_logps)
  assert isinstance(found.advantages, np.ndarray)
  if not cap:
    other = leave_one_out(x, 0.5, x.sampler_logps)
    assert np.abs(other - wanted).max() > 1e-2


def test_the_old_values_are_those_of_the_rollout():
  """GAE and returns, backwards over a completion's tokens, then whitened."""
  values = inputs(3).policy_logps
  x = inputs(values=values)
  objective = tiny.objective("ppo", kl_coef=0.1, gamma=0.9, gae_lambda=0.8)
  found = columns.make_prepare(objective, 0.0)(x)
  np.testing.assert_array_equal(found.old_values, values)
  gains, returns = np.zeros(MASK.shape), np.zeros(MASK.shape)
  for b, k in np.argwhere(LENGTHS > 0):
    n, later, value = LENGTHS[b, k], 0.0, 0.0
    for t in reversed(range(n)):
      reward = -0.1 * float(
        x.policy_logps[b, k, t] - x.reference_logps[b, k, t]
      )
      reward += float(x.feedback[b, k]) if t == n - 1 else 0.0
      error = reward + 0.9 * value - float(values[b, k, t])
      later, value = error + 0.9 * 0.8 * later, float(values[b, k, t])
      gains[b, k, t], returns[b, k, t] = later, later + value
  np.testing.assert_allclose(found.token_feedback, returns, atol=1e-5)
  there = gains[MASK]
  white = (there - there.mean()) / np.sqrt(there.var() + 1e-8)
  np.testing.assert_allclose(found.advantages[MASK], white, atol=1e-4)
  real, own = returns[MASK], values[MASK]
  wanted = 1 - np.var(real - own) / np.var(real)
  assert columns.explained(found) == pytest.approx(wanted, abs=1e-4)


def test_no_values_explain_nothing():
  assert np.isnan(columns.explained(inputs()))


def test_rewards_of_tokens_are_added_to_the_score():
  x = inputs(values=0 * inputs().policy_logps)
  tokens = inputs(5).policy_logps
  objective = tiny.objective("ppo", kl_coef=0.0, gamma=1.0, gae_lambda=1.0)
  found = columns.make_prepare(objective, 0.0)(x.replace(token_feedback=tokens))
  # With V = 0, gamma = lambda = 1 the return is what is still to come.
  wanted = np.cumsum(tokens[..., ::-1], -1)[..., ::-1] + x.feedback[..., None]
  np.testing.assert_allclose(
    found.token_feedback, np.where(MASK, wanted, 0), atol=1e-5
  )


def test_columns_go_to_the_tokens_that_they_are_of():
  prompts, drawn = samples.prompts(3), samples.drawn(3, 2, new=T)
  scores = np.array([[1.0, np.nan], [0.5, 2.0], [np.nan, np.nan]])
  made = groups.keep_all(prompts, drawn, scores)
  numbers = np.arange(P * K * T, dtype=np.float32).reshape(P, K, T)
  x = inputs().replace(advantages=numbers, sampler_logps=-numbers)
  found = columns.attach(made, x, ("advantages", "sampler_logps"))
  assert found[2] is None
  for b in (0, 1):
    sizes = [len(c) for c in made[b].completions]
    assert found[b].columns.keys() == {"advantages", "sampler_logps"}
    for k, n in enumerate(sizes):
      np.testing.assert_array_equal(
        found[b].columns["advantages"][k], numbers[b, k, :n]
      )
      np.testing.assert_array_equal(
        found[b].columns["sampler_logps"][k], -numbers[b, k, :n]
      )


@pytest.mark.parametrize(
  "method, keywords, wanted",
  [
    ("rloo", {}, ("reference_logps", "sampler_logps", "advantages")),
    ("rloo", {"beta": 0.0}, ("advantages",)),
    ("dpo", {}, ("reference_logps",)),
    (
      "ppo",
      {"kl_coef": 0.0},
      ("sampler_logps", "old_values", "advantages", "token_feedback"),
    ),
  ],
)
def test_what_a_group_carries(method, keywords, wanted):
  assert columns.names(tiny.objective(method, **keywords)) == wanted


def test_statistics_are_of_the_samplers_temperature():
  noise = np.random.default_rng(2)
  hidden = noise.normal(size=(1, 3, 4)).astype(np.float32)
  kernel = noise.normal(size=(4, 7)).astype(np.float32)
  targets = np.array([[0, 6, 2]], np.int32)
  found = vocabulary.statistics(
    hidden, kernel, targets, frozenset({"entropy"}), temperature=0.5
  )
  logits = hidden[0].astype(float) @ kernel / 0.5
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  wanted = np.log(p[np.arange(3), targets[0]])
  np.testing.assert_allclose(found["logps"][0], wanted, atol=1e-5)
  np.testing.assert_allclose(
    found["entropy"][0], -(p * np.log(p)).sum(-1), atol=1e-5
  )


@pytest.mark.slow
def test_policy_and_reference_have_the_samplers_temperature():
  """Two ways to the same numbers: a chunked head, and whole distributions."""
  batch = jax.tree.map(
    lambda x: x[0], tiny.batch(tiny.members(tiny.objective("dpo"), 4))
  )
  mask = np.asarray(batch.completion_mask)

  def numbers(needs, temperature):
    made = tiny.objective("dpo")
    method = dataclasses.replace(made.method, needs_of=lambda _: needs)
    made = dataclasses.replace(made, method=method, temperature=temperature)
    x = made.score(tiny.policy(), tiny.frozen(), batch, 0, None, True)
    return np.asarray(x.policy_logps)[mask], np.asarray(x.reference_logps)[mask]

  some = {"reference_logps"}
  hot, cold = numbers(some, 1.0), numbers(some, 0.7)
  for more in ({"entropy"}, {"token_kl:forward"}):
    for one, other in zip(numbers(some | more, 0.7), cold, strict=True):
      np.testing.assert_allclose(one, other, atol=1e-5)
  for one, other in zip(hot, cold, strict=True):
    assert np.abs(one - other).max() > 0.05


def packed(lengths, microbatches=1, data=1, row_length=300, trunk=None):
  """A step of 16 prompts with two completions of these lengths, 0: no group."""
  shape = planning.Shape(
    prompts=16 // microbatches,
    completions=2,
    tokens=140,
    rows=16 // microbatches,
    row_length=row_length,
    targets=280,
  )
  job = types.SimpleNamespace(
    plan=types.SimpleNamespace(shape=shape),
    train=types.SimpleNamespace(kind=Feedback.SCORE),
    mesh=types.SimpleNamespace(shape={"data": data, "fsdp": 1, "tensor": 1}),
    objective=types.SimpleNamespace(
      model=types.SimpleNamespace(config=types.SimpleNamespace(width=2))
    ),
  )
  made = [
    dataclasses.replace(
      prompt,
      completions=tuple(np.full(n, 3, np.int32) for _ in range(2)),
      ended=(True, True),
      feedback=(0.0, 1.0),
    )
    if n
    else None
    for prompt, n in zip(samples.prompts(16), lengths, strict=True)
  ]
  return columns.pack(job, made, trunk=trunk and trunk(made))


@pytest.mark.parametrize(
  "length, more, rows",
  [
    (10, {}, 8),
    (60, {}, 8),
    (140, {}, 16),
    (140, {"data": 8}, 16),
    (10, {"data": 2}, 8),
    (10, {"data": 4}, 16),  # 1,200 slots a device are not worth a program
    (10, {"microbatches": 2}, 4),
  ],
)
def test_short_samples_take_fewer_rows(length, more, rows):
  batch = packed([length] * 16, **more)
  assert batch.tokens.shape[1] == rows
  assert int(batch.completion_mask.sum()) == 16 * 2 * length
  inside = batch.target_slot < 16 // more.get("microbatches", 1) * 2 * 140
  assert int(inside.sum()) == 16 * 2 * length


def test_all_microbatches_of_a_step_have_one_shape():
  batch = packed([140] * 8 + [1] * 8, microbatches=2)
  assert batch.tokens.shape[:2] == (2, 8)
  assert packed([140] * 11 + [1] * 5).tokens.shape[1] == 12


def test_states_of_a_microbatch_without_groups_are_nought():
  states = lambda groups: [
    g and np.ones((len(g.prompt) + 20, 2)) for g in groups
  ]
  batch = packed([10] * 8 + [0] * 8, microbatches=2, trunk=states)
  assert batch.trunk.shape == (*batch.tokens.shape, 2)
  assert batch.trunk[0].any() and not batch.trunk[1].any()
  np.testing.assert_array_equal(batch.trunk[..., 0] == 1, batch.group > 0)
