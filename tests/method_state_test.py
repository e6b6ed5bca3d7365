"""Running statistics live in the TrainState: saved bit for bit, handed through
every kind of step, and only read by evaluation. Meshes: mesh_needs_test.py."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny
from tests.step_test import RATE, compiled, evaluation, log_ratios, start
from xpo_jax import checkpoint

META = {"data": "d", "tokenizer": "t"}
TX = optax.sgd(RATE)
STATEFUL = {"bco": {"beta": 1.0}, "beta_dpo": {"beta": 1.0, "keep": 0.7}}


def raw(tree):
  """Bytes and dtype of every leaf."""
  data = lambda x: (
    jax.random.key_data(x)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    else x
  )
  leaves = [np.asarray(data(x)) for x in jax.tree.leaves(tree)]
  return [(x.dtype, x.shape, x.tobytes()) for x in leaves]


@pytest.mark.parametrize(
  "name", ["beta_dpo", pytest.param("bco", marks=pytest.mark.slow)]
)
def test_a_restored_run_goes_on_bit_for_bit(name, tmp_path):
  objective = tiny.objective(name, **STATEFUL[name])
  step, batch = compiled(objective, TX), tiny.batch(tiny.members(objective, 8))
  state = start(objective, TX)
  for _ in range(2):
    state, _ = step(state, tiny.frozen(), batch)
  with checkpoint.open_checkpoints(tmp_path, 1) as manager:
    checkpoint.save(manager, state, {}, META)
  fresh = start(objective, TX, seed=4)
  assert raw(fresh.method_state) != raw(state.method_state)
  with checkpoint.open_checkpoints(tmp_path, 1) as manager:
    found, _, _ = checkpoint.restore(manager, fresh)
  assert jax.tree.structure(found) == jax.tree.structure(state)
  assert raw(found) == raw(state)
  on, _ = step(state, tiny.frozen(), batch)
  again, _ = step(found, tiny.frozen(), batch)
  assert raw(again) == raw(on)
  assert raw(on.method_state) != raw(state.method_state)


def test_evaluation_reads_the_shift_of_training():
  objective = tiny.objective("bco", beta=0.5)
  members = tiny.members(objective, 6)
  state = {"count": jnp.float32(40), "mean": jnp.float32(-0.3)}
  numbers = evaluation(objective)(
    tiny.policy(), state, tiny.frozen(), tiny.batch(members, 2)
  )
  sign = np.array([g.feedback[0] for g in members])
  margin = sign * (0.5 * log_ratios(members)[:, 0] + 0.3)
  np.testing.assert_array_equal(numbers["rewards/delta"], np.float32(-0.3))
  loss = np.log1p(np.exp(-margin))
  np.testing.assert_allclose(numbers["loss"], loss, rtol=1e-5, atol=1e-6)


def test_evaluation_keeps_every_pair_at_the_plain_beta():
  objective = tiny.objective("beta_dpo", beta=0.5)
  members = tiny.members(objective, 6)
  state = {"mean": 0.2, "std": 0.7, "batches": 3}
  numbers = evaluation(objective)(
    tiny.policy(), jax.tree.map(jnp.asarray, state), tiny.frozen(),
    tiny.batch(members, 2),
  )  # fmt: skip
  u = log_ratios(members)
  loss = np.log1p(np.exp(-0.5 * (u[:, 0] - u[:, 1])))
  np.testing.assert_allclose(numbers["loss"], loss, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(numbers["weight"], np.ones(6))
  for key, value in state.items():
    if key != "batches":
      got = numbers[f"discrepancy/{key}"]
      np.testing.assert_array_equal(got, np.float32(value))


@pytest.mark.parametrize("parts", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_an_adaptive_coefficient_passes_the_steps_of_a_rollout(parts):
  """`prepare` moves it once a rollout; microbatches only report it."""
  objective = tiny.objective("ppo", kl_target=6.0, kl_coef=0.2)
  members = tiny.members(objective, 4)
  batch, noise = tiny.batch(members, parts), np.random.default_rng(0)
  names = "sampler_logps old_values advantages token_feedback reference_logps"
  shape = batch.completion_mask.shape
  draw = lambda: noise.normal(size=(4, *shape[2:])).astype(np.float32)
  columns = {name: draw().reshape(shape) - 3 for name in names.split()}
  state = start(objective, TX)
  head = {"kernel": np.ones(tiny.CONFIG.width, np.float32), "bias": 0.0}
  value = {"top": tiny.params(3), "head": head}
  params = jax.tree.map(jnp.asarray, {**state.params, "value": value})
  state = state.replace(
    params=params,
    opt_state=TX.init(params),
    method_state={"kl_coef": jnp.float32(0.17)},
  )
  step = compiled(objective, TX)
  end, values = step(state, tiny.frozen(), batch.replace(columns=columns))
  assert raw(end.method_state) == raw(state.method_state)
  assert values["kl/coef"] == np.float32(0.17)
  assert tiny.far(end.params, params) > 1e-3
