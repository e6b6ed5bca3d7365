"""The step against arithmetic: exact microbatches, safe and repeatable."""

import dataclasses
import functools

import chex
import jax
from jax import lax
from jax.nn import sigmoid, softplus
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny
from xpo_jax.models import model as lm
from xpo_jax.models.model import Weights
from xpo_jax.models.transformer import Places
from xpo_jax.step import make_evaluate, make_train_step
from xpo_jax.trio import Frozen
from xpo_jax.types import TrainState

RATE = 0.5
# tiny.QUICK's other emitters round exp and log otherwise: 1.1e-6 where these
# stay below the 1e-6 that is compared here.
EXACT = {"xla_backend_optimization_level": 0}
WIDTH = 12  # the longest prompt and completion


def start(objective, tx, seed=0):
  params = tiny.policy(seed)
  make = objective.method.init_state
  zeros = lambda s: np.zeros(s.shape, s.dtype)
  state = TrainState(
    step=np.int32(0),
    params=params,
    opt_state=jax.tree.map(zeros, jax.eval_shape(tx.init, params)),
    key=jax.random.key(7),
    method_state=make(objective.settings) if make else None,
    skipped=np.int32(0),
  )
  return jax.device_put(state)


def compiled(objective, tx, **options):
  step = make_train_step(objective, tx, optax.constant_schedule(RATE))
  return jax.jit(step, compiler_options=EXACT, **options)


def evaluation(objective):
  return jax.jit(make_evaluate(objective), compiler_options=EXACT)


def train(objective, frozen, batch, steps=3):
  """(parameters, metrics of every step) of plain gradient descent."""
  tx = optax.sgd(RATE)
  state, step, seen = start(objective, tx), compiled(objective, tx), []
  for _ in range(steps):
    state, values = step(state, frozen, batch)
    seen.append(jax.device_get(values))
  return jax.device_get(state), seen


# The same by hand: every prompt + completion is a row of its own.


def rows_of(members):
  k = len(members[0].completions)
  tokens = np.zeros((len(members), k, WIDTH), np.int32)
  mask = np.zeros((len(members), k, WIDTH - 1), bool)
  for n, group in enumerate(members):
    for i, completion in enumerate(group.completions):
      ids = np.concatenate([group.prompt, completion])
      tokens[n, i, : len(ids)] = ids
      mask[n, i, len(group.prompt) - 1 : len(ids) - 1] = True
  return tokens, mask


def token_logps(top, tokens):
  """[N, K, W] -> [N, K, W - 1]: log-probs of every token but the first, and of
  the likeliest other one in its place."""
  flat = tokens.reshape(-1, WIDTH)
  at = jnp.broadcast_to(jnp.arange(WIDTH), flat.shape)
  places = Places(at, jnp.ones_like(at), jnp.zeros_like(at))
  weights = Weights({}, top)
  states = lm.hidden(tiny.MODEL, weights, flat, places)
  logps = jax.nn.log_softmax(lm.logits(tiny.MODEL, weights, states))
  here = jax.nn.one_hot(flat[:, 1:], logps.shape[-1])
  chosen = jnp.sum(here * logps[:, :-1], axis=-1)
  other = jnp.max(jnp.where(here > 0, -jnp.inf, logps[:, :-1]), axis=-1)
  shape = (*tokens.shape[:2], -1)
  return chosen.reshape(shape), other.reshape(shape)


fast = jax.jit(token_logps, compiler_options=EXACT)


def by_hand_logps(members, seed=0):
  """Log-probs [N, K, W - 1] under `tiny.params(seed)`, and their mask."""
  tokens, mask = rows_of(members)
  return np.asarray(fast(tiny.params(seed), tokens)[0]), mask


def log_ratios(members):
  """[N, K]: policy against reference."""
  (policy, mask), (reference, _) = (by_hand_logps(members, s) for s in (0, 1))
  return np.sum(np.where(mask, policy - reference, 0.0), axis=-1)


def dpo(logps, other, reference, mask, feedback):
  u = jnp.sum(jnp.where(mask, logps - reference, 0.0), axis=-1)
  return jnp.mean(softplus(-0.1 * (u[:, 0] - u[:, 1])))


def sft(logps, other, reference, mask, feedback):
  return -jnp.sum(jnp.where(mask, logps, 0.0)) / jnp.sum(mask)


def kto(logps, other, reference, mask, feedback):
  u = jnp.sum(jnp.where(mask, logps - reference, 0.0), axis=-1)
  z0 = lax.stop_gradient(jnp.maximum(jnp.mean(u[:, 1]), 0.0))
  gap = 0.1 * (u[:, 0] - z0)
  good = feedback[:, 0] > 0
  return jnp.mean(jnp.where(good, 1 - sigmoid(gap), 1 - sigmoid(-gap)))


def cringe(logps, other, reference, mask, feedback):
  """One mean over good tokens plus one over bad ones."""
  good, bad = (mask & (sign * feedback > 0)[..., None] for sign in (1, -1))
  contrast = softplus(logps - other)
  return -mean(logps, good) + mean(contrast, bad)


def mean(x, mask):
  return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.sum(mask)


def orpo(logps, other, reference, mask, feedback):
  """A mean over pairs plus a mean over the tokens of all chosen texts."""
  total = jnp.sum(jnp.where(mask, logps, 0.0), axis=-1)
  mean = total / jnp.sum(mask, axis=-1)
  odds = mean - jnp.log1p(-jnp.exp(mean))
  ratio = jnp.mean(softplus(-(odds[:, 0] - odds[:, 1])))
  return 0.3 * ratio - jnp.sum(total[:, 0]) / jnp.sum(mask[:, 0])


@pytest.mark.parametrize(
  "name, by_hand, keywords",
  [
    ("dpo", dpo, {}),
    ("sft", sft, {}),  # ragged: a mean over tokens, not over microbatches
    ("kto", kto, {}),  # two passes
    # Terms with means of their own.
    pytest.param("cringe", cringe, {}, marks=pytest.mark.slow),
    ("orpo", orpo, {"odds_coef": 0.3, "nll_norm": "batch_token_mean"}),
  ],
)
def test_every_split_is_the_gradient_of_the_global_loss(
  name, by_hand, keywords
):
  objective = tiny.objective(name, **keywords)
  members = tiny.members(objective, 8)
  needs = objective.method.needs(objective.settings)
  frozen = tiny.frozen() if "reference_logps" in needs else Frozen()
  tokens, mask = rows_of(members)
  feedback = np.array([g.feedback for g in members])
  reference, _ = by_hand_logps(members, 1)

  loss = jax.jit(
    jax.value_and_grad(
      lambda top: by_hand(*token_logps(top, tokens), reference, mask, feedback)
    ),
    compiler_options=EXACT,
  )

  top, expected = tiny.params(0), []
  for _ in range(3):
    value, grads = loss(top)
    expected.append(float(value))
    top = jax.tree.map(lambda p, g: p - RATE * g, top, grads)
  for microbatches in (1, 4) if name == "kto" else (4,):
    state, seen = train(objective, frozen, tiny.batch(members, microbatches))
    np.testing.assert_allclose([v["loss"] for v in seen], expected, rtol=2e-6)
    assert tiny.far(state.params["policy"]["top"], top) < 1e-6
    assert state.step == 3 and state.skipped == 0
  assert tiny.far(top, tiny.params(0)) > 1e-3  # it did learn


def test_metrics_are_means_over_the_whole_batch():
  # Each class has another share in every microbatch.
  objective = tiny.objective("kto", z0_mode="zero")
  members = tiny.members(objective, 8)
  _, (values,) = train(
    objective, tiny.frozen(), tiny.batch(members, 4), steps=1
  )
  rewards = 0.1 * log_ratios(members)[:, 0]
  good = np.array([g.feedback[0] > 0 for g in members])
  wanted = {"desirable": rewards[good], "undesirable": rewards[~good]}
  for name, part in wanted.items():
    mean = pytest.approx(part.mean(), abs=1e-5)
    assert values[f"rewards/{name}"] == mean, name


def test_empty_slots_change_nothing():
  objective = tiny.objective("sft")
  members = tiny.members(objective, 6)
  full, _ = train(objective, Frozen(), tiny.batch(members), steps=2)
  padded, seen = train(
    objective, Frozen(), tiny.batch(members, 4, slots=2), steps=2
  )
  assert tiny.far(full.params, padded.params) < 1e-6
  tokens = [len(g.completions[0]) for g in members]
  mask = tiny.batch(members, 4, slots=2).completion_mask
  assert mask.shape[:2] == (4, 2) and mask.sum() == sum(tokens)
  logps, mask = by_hand_logps(members)
  total = np.sum(np.where(mask, logps, 0.0), axis=(1, 2))
  mean = np.mean(total / tokens)  # over the 6 that are there
  assert seen[0]["logps/token"] == pytest.approx(mean, rel=1e-5)


def test_compiled_once_and_buffers_are_donated():
  objective, tx = tiny.objective("dpo"), optax.adamw(1e-2)
  step = compiled(objective, tx, donate_argnums=0)
  members = tiny.members(objective, 4)
  state = start(objective, tx)
  with tiny.compilations("jit(step)") as count:
    for seed in range(3):
      before = state
      state, _ = step(before, tiny.frozen(seed + 1), tiny.batch(members))
  assert len(count) == 1 and int(state.step) == 3
  assert all(x.is_deleted() for x in jax.tree.leaves(before.params))


def fragile(objective):
  """The same loss, whose gradient is NaN on weights of 1 and right on 2."""
  plain = objective.method.loss

  @functools.wraps(plain)
  def loss(x, **settings):
    out = plain(x, **settings)
    root = jnp.sqrt(0 * jnp.sum(x.policy_logps) + (x.weight[0] - 1) ** 2)
    return out._replace(loss=out.loss + root)

  method = dataclasses.replace(objective.method, loss=loss)
  return dataclasses.replace(objective, method=method)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(broken):
  objective = fragile(tiny.objective("kto", z0_mode="ema"))
  members = tiny.members(objective, 4)
  rate = lambda update: 1e-2 * (update + 1.0)
  tx, batch = optax.adamw(rate), tiny.batch(members, 2)
  good = tiny.frozen(), batch.replace(weight=2 * batch.weight)
  bad = {
    "loss": (Frozen(reference=nan_like(good[0].reference)), good[1]),
    "gradient": (good[0], batch),
  }[broken]
  step = jax.jit(make_train_step(objective, tx, rate), compiler_options=EXACT)
  state, _ = step(start(objective, tx), *good)
  mean = log_ratios(members)[:, 1].mean()  # running statistics moved once
  assert state.method_state["z0"] == pytest.approx(0.1 * mean, rel=1e-4)
  hurt, values = step(state, *bad)
  assert np.isfinite(values["loss"]) == (broken == "gradient")
  assert not np.isfinite(values["optimizer/gradient_norm"])
  for name in ("params", "opt_state", "method_state"):
    chex.assert_trees_all_equal(getattr(hurt, name), getattr(state, name))
  assert (int(hurt.step), int(hurt.skipped)) == (2, 1)
  hurt, values = step(hurt, *bad)
  assert (int(hurt.step), int(hurt.skipped)) == (3, 2)
  assert values["optimizer/skipped"] == 2
  well, values = step(hurt, *good)
  assert int(well.skipped) == 0 and int(well.step) == 4
  # The second update, at the fourth step: so says the optimizer's own count.
  assert values["optimizer/learning_rate"] == pytest.approx(0.02)
  assert tiny.far(well.params, state.params) > 1e-4


def nan_like(tree):
  return jax.tree.map(lambda x: np.full_like(x, np.nan), tree)


def test_evaluation_gives_the_numbers_of_every_prompt():
  objective = tiny.objective("dpo")
  members = tiny.members(objective, 5)
  batch = tiny.batch(members, slots=1)
  numbers = evaluation(objective)(tiny.policy(), None, tiny.frozen(), batch)
  u = log_ratios(members)
  margin = 0.1 * (u[:, 0] - u[:, 1])
  np.testing.assert_allclose(numbers["rewards/margin"][:5], margin, atol=2e-6)
  np.testing.assert_allclose(
    numbers["loss"], [*np.log1p(np.exp(-margin)), 0.0], atol=2e-6
  )
  np.testing.assert_array_equal(numbers["weight"], [1, 1, 1, 1, 1, 0])


def test_evaluation_never_moves_running_statistics():
  objective = tiny.objective("kto", z0_mode="ema")
  members = tiny.members(objective, 4)
  numbers = evaluation(objective)(
    tiny.policy(), {"z0": jnp.float32(0.25)}, tiny.frozen(), tiny.batch(members)
  )
  assert set(numbers) >= {"loss", "weight", "kl/z0"}
  z0 = max(0.0, 0.9 * 0.25 + 0.1 * log_ratios(members)[:, 1].mean())
  np.testing.assert_allclose(numbers["kl/z0"], [z0] * 4, rtol=1e-4)
