"""Policy, reference and reward: exactly what a method needs, and right."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import plain_model
from tests import tiny_models as tiny
from xpo_jax import methods, trio
from xpo_jax.models import heads, states
from xpo_jax.models import model as lm
from xpo_jax.models.model import Model, Weights
from xpo_jax.trio import Frozen
from xpo_jax.types import Feedback

CONFIG = dataclasses.replace(tiny.CONFIG, layers=2)
OPTIONAL = (
  "reference_logps sampler_logps old_values advantages token_feedback values "
  "scores token_scores token_kl entropy log_collision contrast_logps state "
  "noise"
).split()


@pytest.fixture(scope="module")
def groups():
  return tiny.pairs(5)


@pytest.fixture(scope="module")
def batch(groups):
  return tiny.pack(groups)


MODEL = Model(CONFIG)
LORA = Model(CONFIG, lora=(3, 2.5))
LORA_ON_TRUNK = dataclasses.replace(LORA, trunk_blocks=1)


def start(model=MODEL):
  """({"policy": {"top"}}, Frozen) of full training with a live reference."""
  trunk, top = lm.split(tiny.params(model.config), model.trunk_blocks)
  other = jax.tree.map(lambda x: 0.9 * x, top)
  return {"policy": {"top": top}}, Frozen(trunk, reference=other)


def reward_start():
  params, frozen = start()
  head = heads.init_reward_head(jax.random.key(1), CONFIG.width)
  params["policy"]["reward_head"] = head
  return params, dataclasses.replace(frozen, reference=None)


def lora_start(model, up=0.0):
  trunk, top = lm.split(tiny.params(model.config), model.trunk_blocks)
  policy = {"lora": tiny.lora(model, up)}
  return {"policy": policy}, Frozen(trunk, top=top)


def score(name, params, frozen, batch, model=MODEL, **keywords):
  method = methods.get(name)
  settings = method.settings(keywords)
  return trio.score(model, method, settings, params, frozen, batch)


scored = jax.jit(score, static_argnums=(0, 4))


def filled(x) -> set[str]:
  return {
    name for name in [*OPTIONAL, "policy_logps"] if getattr(x, name) is not None
  }


def abstract(*inputs, **keywords):
  """What `score` gives, without compiling or computing it."""
  return jax.eval_shape(lambda: score(*inputs, **keywords))


# Places.


def test_scatter_puts_row_scalars_where_their_slots_say(batch):
  shape = batch.completion_mask.shape
  slots = jnp.array([[0, 3], [5, 12], [12, 12]])
  small = batch.replace(
    completion_mask=np.ones((2, 2, 3), bool), target_slot=slots
  )
  values = jnp.array([[1.0, 2.0], [3.0, np.nan], [7.0, 8.0]])
  found = trio.scatter(values, small)
  wanted = [[[1.0, 0, 0], [2.0, 0, 3.0]], [[0.0] * 3] * 2]
  np.testing.assert_array_equal(found, wanted)
  ones = trio.scatter(jnp.ones(batch.target_slot.shape), batch)
  assert ones.shape == shape
  np.testing.assert_array_equal(ones > 0, batch.completion_mask)


def test_last_token_is_the_last_counted_one():
  values = np.arange(12, dtype=np.float32).reshape(1, 3, 4) + 1
  mask = np.array([[[1, 1, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]]], bool)
  found = trio.last_token(jnp.asarray(values), jnp.asarray(mask))
  np.testing.assert_array_equal(found, [[3.0, 8.0, 0.0]])


def test_policy_logps_are_those_of_the_plain_model(groups, batch):
  params, frozen = start()
  found = np.asarray(scored("dpo", params, frozen, batch).policy_logps)
  group = groups[2]
  ids = np.concatenate([group.prompt, group.completions[0]])
  wanted = plain_model.logps(CONFIG, params["policy"]["top"], ids)
  n = len(group.completions[0])
  np.testing.assert_allclose(found[2, 0, :n], wanted[-n:], rtol=1e-5, atol=1e-5)
  assert (found[2, 0, n:] == 0).all()


# What is filled.


def test_score_fills_what_needs_says_and_nothing_else(batch):
  params, frozen = start()
  column = {"reference_logps": jnp.zeros(batch.completion_mask.shape)}
  full = batch.replace(
    columns=column | {"sampler_logps": column["reference_logps"]}
  )
  kinds = filled(abstract("sft", params, frozen, full))
  assert kinds == {"policy_logps"}
  assert filled(abstract("dpo", params, frozen, full)) == {
    "policy_logps",
    "reference_logps",
  }
  free = abstract("dpo", params, frozen, full, reference_free=True)
  assert filled(free) == {"policy_logps"}
  params, frozen = reward_start()
  found = abstract("rm_bt", params, frozen, full)
  assert filled(found) == {"scores"}
  assert found.scores.shape == batch.present.shape


def test_masks_feedback_and_weights_pass_through(batch):
  params, frozen = start()
  batch = batch.replace(weight=batch.weight * 0.5)
  x = scored("dpo", params, frozen, batch)
  for name in ("completion_mask", "present", "ended", "feedback", "weight"):
    np.testing.assert_array_equal(getattr(x, name), getattr(batch, name))
  assert x.feedback_kind is Feedback.ORDER and x.train


def test_reference_runs_only_when_needed_and_not_cached(batch, monkeypatch):
  params, frozen = start()
  ran = []
  hidden = lm.hidden

  def counted(model, weights, *rest):
    ran.append("reference" if weights.top is frozen.reference else "policy")
    return hidden(model, weights, *rest)

  monkeypatch.setattr(lm, "hidden", counted)

  def forwards(name, batch, **keywords):
    ran.clear()
    # Traced with the trees themselves, so that `is` can tell them apart.
    method = methods.get(name)
    settings = method.settings(keywords)
    jax.eval_shape(
      lambda: trio.score(Model(CONFIG), method, settings, params, frozen, batch)
    )
    return sorted(ran)

  cached = batch.replace(
    columns={"reference_logps": jnp.zeros(batch.completion_mask.shape)}
  )
  assert forwards("dpo", batch) == ["policy", "reference"]
  assert forwards("dpo", cached) == ["policy"]
  assert forwards("dpo", batch, reference_free=True) == ["policy"]
  assert forwards("sft", batch) == ["policy"]


def shapes_with(text: str, size: int) -> set[tuple[int, ...]]:
  """All array shapes of a program's text that have an axis of `size`."""
  found = re.findall(r"tensor<((?:\d+x)+)[a-z]", text)
  shapes = {tuple(int(n) for n in s[:-1].split("x")) for s in found}
  return {shape for shape in shapes if size in shape}


def test_reward_model_has_no_vocabulary_head(batch):
  def program(name, params, frozen):
    def loss(params):
      x = score(name, params, frozen, batch)
      return methods.get(name).loss(x).loss.sum()

    return jax.jit(jax.grad(loss)).lower(params).as_text()

  size, width = CONFIG.vocab_size, CONFIG.width
  weights = {(size, width), (width, size)}
  assert shapes_with(program("rm_bt", *reward_start()), size) <= weights
  assert shapes_with(program("dpo", *start()), size) - weights


def test_reward_is_read_after_the_last_token(groups, batch):
  params, frozen = reward_start()
  found = np.asarray(scored("rm_bt", params, frozen, batch).scores)
  top = params["policy"]["top"]
  for b in (0, 3):
    for k, completion in enumerate(groups[b].completions):
      ids = np.concatenate([groups[b].prompt, completion])
      state = plain_model.states(CONFIG, top, ids)[-1]
      head = params["policy"]["reward_head"]
      wanted = np.dot(state, head["kernel"]) + head["bias"]
      np.testing.assert_allclose(found[b, k], wanted, rtol=1e-5, atol=1e-5)


# Cached equals live.


def loss_of(x, name):
  output = methods.get(name).loss(x)
  return float(output.loss.sum() / output.weight.sum())


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_cached_reference_is_the_live_one(name, groups, batch, tmp_path):
  params, frozen = start()
  reference = Weights({}, frozen.reference)
  look_up = states.reference_logps(MODEL, reference, groups, tmp_path)
  kind = Feedback.ORDER if name == "dpo" else Feedback.BINARY
  columns = {"reference_logps": look_up}
  cached = tiny.pack(groups, kind, columns=columns)
  live = scored(name, params, frozen, batch.replace(feedback_kind=kind))
  found = scored(name, params, Frozen(), cached)
  tiny.assert_near(found.reference_logps, live.reference_logps, 1e-5)
  difference = np.abs(live.reference_logps - live.policy_logps).max()
  assert difference > 0.1  # another model than the policy
  assert loss_of(found, name) == pytest.approx(loss_of(live, name), rel=1e-5)


def test_a_reference_gets_no_gradient(batch):
  params, frozen = start()

  @jax.jit
  @jax.grad
  def gradient(frozen):
    x = score("dpo", params, frozen, batch)
    return x.reference_logps.sum()

  assert not any(np.any(g) for g in jax.tree.leaves(gradient(frozen)))


def test_given_trunk_states_are_those_computed_live(groups, batch, tmp_path):
  model = Model(CONFIG, trunk_blocks=1)
  params, frozen = start(model)
  look_up = states.trunk_states(model, frozen.trunk, groups, tmp_path)
  given = tiny.pack(groups, trunk=look_up)
  assert given.trunk.shape == (*given.tokens.shape, CONFIG.width)

  run = lambda batch: scored("dpo", params, frozen, batch, model)
  wanted, found = run(batch), run(given)
  tiny.assert_near(found.policy_logps, wanted.policy_logps, 1e-6)
  tiny.assert_near(found.reference_logps, wanted.reference_logps, 1e-6)
  # It is really used: other states give other numbers.
  other = run(given.replace(trunk=np.flip(given.trunk, 1)))
  assert np.abs(other.policy_logps - wanted.policy_logps).max() > 0.1


def test_full_training_moves_every_weight_also_the_head(batch):
  params, frozen = start()

  @jax.jit
  @jax.grad
  def gradient(params):
    return score("dpo", params, frozen, batch).policy_logps.sum()

  for path, g in jax.tree_util.tree_leaves_with_path(gradient(params)):
    assert np.abs(g).max() > 0, path


# LoRA.


@pytest.fixture(scope="module")
def lora_gradient(batch):
  """(params, frozen) -> (gradient of the DPO loss, the numbers it saw)."""

  def loss(params, frozen):
    x = score("dpo", params, frozen, batch, LORA_ON_TRUNK)
    return methods.get("dpo").loss(x).loss.sum(), x

  return jax.jit(jax.grad(loss, has_aux=True))


def test_lora_starts_as_its_reference_bit_for_bit(lora_gradient):
  params, frozen = lora_start(LORA_ON_TRUNK)
  _, x = lora_gradient(params, frozen)
  np.testing.assert_array_equal(x.policy_logps, x.reference_logps)
  assert np.abs(x.policy_logps).max() > 1
  moved, _ = lora_start(LORA_ON_TRUNK, up=0.3)
  _, again = lora_gradient(moved, frozen)
  np.testing.assert_array_equal(again.reference_logps, x.reference_logps)
  assert np.abs(again.policy_logps - x.policy_logps).max() > 0.1


def test_merged_lora_gives_the_same_logits(batch):
  model = LORA_ON_TRUNK
  params, frozen = lora_start(model, up=0.3)
  weights = trio.policy_weights(params["policy"], frozen)
  places = trio.places(batch)
  run = jax.jit(
    lambda w: lm.logits(model, w, lm.hidden(model, w, batch.tokens, places))
  )
  before = jax.tree.map(np.copy, frozen.top)
  merged = Weights(frozen.trunk, lm.merge_lora(model, weights))
  tiny.assert_near(run(merged), run(weights), 1e-5)
  jax.tree.map(np.testing.assert_array_equal, frozen.top, before)
  base = run(Weights(frozen.trunk, frozen.top))
  assert np.abs(run(merged) - base).max() > 0.1


def test_lora_factors_are_those_of_the_description():
  shapes = jax.tree.map(np.shape, tiny.lora(LORA_ON_TRUNK))
  pair = lambda inputs, outputs: ((1, *inputs, 3), (1, 3, *outputs))
  wanted = {}
  for layer, name, inputs, outputs in (
    ("attention", "query", (16,), (4, 6)),
    ("attention", "key", (16,), (2, 6)),
    ("attention", "value", (16,), (2, 6)),
    ("attention", "out", (4, 6), (16,)),
    ("mlp", "gate", (16,), (24,)),
    ("mlp", "up", (16,), (24,)),
    ("mlp", "down", (24,), (16,)),
  ):
    down, up = pair(inputs, outputs)
    node = wanted.setdefault(layer, {})
    node |= {f"{name}_down": down, f"{name}_up": up}
  assert shapes == {"blocks": wanted}


def test_gradient_reaches_every_lora_factor_and_nothing_else(lora_gradient):
  params, frozen = lora_start(LORA_ON_TRUNK)
  grads = lora_gradient(params, frozen)[0]["policy"]
  assert set(grads) == {"lora"}
  for path, g in jax.tree_util.tree_leaves_with_path(grads):
    # One factor is zero at the start, so the other one's gradient is.
    starts = "_up" in jax.tree_util.keystr(path)
    assert bool(np.abs(g).max() > 0) == starts, path
  moved = jax.tree.map(lambda p, g: p - 0.1 * g, params["policy"], grads)
  again, _ = lora_gradient({"policy": moved}, frozen)
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(again))
