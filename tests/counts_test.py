"""Nothing that a method does not need is computed.

Counted in traced programs (nothing is compiled or run) by whose weights a
matmul reads; the expected numbers are written out by hand. The unit is one pass
over a microbatch: its R x L slots for blocks, its R x M targets for heads.
"""

import collections
import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

from tests import jaxprs
from tests.methods import inputs, variants
from xpo_jax import methods
from xpo_jax.models import model as lm
from xpo_jax.models.heads import CHUNK_TOKENS
from xpo_jax.models.model import Model
from xpo_jax.models.transformer import TransformerConfig
from xpo_jax.step import Objective, make_evaluate, make_train_step
from xpo_jax.trio import Frozen
from xpo_jax.types import Batch, LossInputs, TrainState

V, D, F, N = 101, 16, 24, 2  # vocabulary, width, MLP width, layers
R, L, M, B, T = 8, 300, 256, 8, 150  # R M is 4 chunks of CHUNK_TOKENS
RANK = 3
MODEL = Model(TransformerConfig(V, D, N, 4, 2, 4, F))
OUTER = {"gate": {F}, "gate_down": {RANK}, "embedding": {V}, "kernel": set()}

POLICY = {"policy blocks": 1, "policy logits": 1}
REFERENCE = {"reference blocks": 1, "reference logits": 1}
VALUE = {"value blocks": 1, "value head": 1}
REWARD = {"policy blocks": 1, "policy head": 1}
# Needs -> what one microbatch costs (with a live reference, with its column).
COSTS = {
  "": (POLICY, POLICY),
  "reference_logps": (POLICY | REFERENCE, POLICY),
  "reference_logps token_kl:forward": (POLICY | REFERENCE, POLICY | REFERENCE),
  "reference_logps token_kl:reverse": (POLICY | REFERENCE, POLICY | REFERENCE),
  "token_kl:js": (POLICY | REFERENCE, POLICY | REFERENCE),
  "log_collision reference_logps": (POLICY | REFERENCE, POLICY),
  "contrast_logps": (POLICY, POLICY),
  "reference_logps values": (POLICY | REFERENCE | VALUE, POLICY | VALUE),
  "values": (POLICY | VALUE, POLICY | VALUE),
  "entropy reference_logps values": (
    POLICY | REFERENCE | VALUE,
    POLICY | VALUE,
  ),
  "entropy values": (POLICY | VALUE, POLICY | VALUE),
  "scores": (REWARD, REWARD),
  "token_scores": (REWARD, REWARD),
}
# What the data or the step bring along.
FREE = {"sampler_logps", "old_values", "advantages", "token_feedback"}
FREE |= {"noise", "mismatched_completion", "comparison"}
# By the papers; all others compare sequences with a reference.
DEFAULTS = {
  "": "sft simpo cpo orpo slic rrhf pro unlikelihood ga rm_pairwise dapo "
  "dr_grpo gspo",
  "reference_logps token_kl:forward": "tdpo1 tdpo2",
  "log_collision reference_logps": "wpo",
  "contrast_logps": "cringe pairwise_cringe",
  "reference_logps values": "dro ppo",
  "scores": "rm_bt rm_kwise rm_negative rm_orm",
  "token_scores": "rm_prm rm_token",
}
CLASS_OF = {
  n: needs for needs, names in DEFAULTS.items() for n in names.split()
}
SETTINGS = [
  ("dpo", {"reference_free": True}, ""),
  ("rso", {"loss": "hinge"}, ""),
  ("rso", {"loss": "sigmoid_norm"}, "reference_logps"),
  ("grpo", {"beta": 0.0}, ""),
  ("dr_grpo", {"beta": 0.1}, "reference_logps"),
  ("dapo", {"beta": 0.1}, "reference_logps"),
  ("gspo", {"beta": 0.1, "kl_loss": "k1_reward"}, "reference_logps"),
  ("rloo", {"beta": 0.0}, ""),
  ("reinforce_pp", {"kl_coef": 0.0}, ""),
  ("reinforce_pp_baseline", {"kl_coef": 0.0}, ""),
  ("ppo", {"kl_coef": 0.0}, "values"),
  ("ppo", {"entropy_coef": 0.1}, "entropy reference_logps values"),
  ("ppo", {"entropy_coef": 0.1, "kl_coef": 0.0}, "entropy values"),
  ("ppo", {"kl_kind": "k3"}, "reference_logps values"),
  ("dro", {"value": "tokens"}, "reference_logps values"),
  ("dro", {"value": "none"}, "reference_logps"),
  ("tdpo2", {"alpha": 0.0}, "reference_logps"),
  ("nash_md", {"tau": 0.0}, ""),
  ("nash_ema", {"tau": 0.0}, ""),
  ("cringe", {"alpha": 0.0}, ""),
  ("pairwise_cringe", {"alpha": 0.0}, ""),
  ("rm_orm", {"dense": True}, "token_scores"),
  ("kto", {"z0_mode": "zero"}, "reference_logps"),
  ("bco", {"delta_mode": "zero"}, "reference_logps"),
  ("beta_dpo", {"keep": 1.0}, "reference_logps"),
]


@pytest.fixture(scope="module", autouse=True)
def blocks_are_traced_once():
  """The same program, ten times faster to trace again and again."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(lm, "hidden", jax.jit(lm.hidden, static_argnums=0))
    yield


def shapes(fn, *args):
  return jax.eval_shape(lambda: nn.unbox(fn(*args)))


def array(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def objective(name, keywords, model=MODEL, needs=None):
  """A method over the model; `needs` replaces what it asks for."""
  method = methods.get(name)
  if needs is not None:
    method = dataclasses.replace(method, needs_of=lambda h: set(needs.split()))
  return Objective(model, method, method.settings(keywords))


def start(objective):
  """(params, Frozen) of all that any method may read."""
  model = objective.model
  whole = shapes(lm.init, model, jax.random.key(0))
  split = lambda whole: lm.split(whole, model.trunk_blocks)
  trunk, top = jax.eval_shape(split, whole)
  head = {"kernel": array(D), "bias": array()}
  if model.lora[0]:
    policy = {"lora": shapes(lm.init_lora, model, jax.random.key(0))}
    frozen = Frozen(trunk, top)
  else:
    policy, frozen = {"top": top}, Frozen(trunk, reference=top)
  params = {"policy": {**policy, "reward_head": head}}
  if "values" in objective.method.needs(objective.settings):
    params["value"] = {**policy, "head": head}
  return params, frozen


def batch(objective, cached, leading=(), trunk=False):
  """Shapes of a batch of the method's kind and K."""
  method, settings = objective.method, objective.settings
  kind = inputs.feedback_kinds(method)[0]
  k = inputs.list_sizes(method, settings, kind)[0]
  if settings.get("value") == "none":
    k = 2
  make = lambda *shape, dtype=jnp.int32: array(*leading, *shape, dtype=dtype)
  columns = FREE & {field.name for field in dataclasses.fields(LossInputs)}
  columns = columns - {"noise"}
  columns |= {"reference_logps"} if cached else set()
  return Batch(
    *[make(R, L)] * 4,
    *[make(R, M)] * 4,
    completion_mask=make(B, k, T, dtype=bool),
    present=make(B, k, dtype=bool),
    ended=make(B, k, dtype=bool),
    feedback=make(B, k, dtype=jnp.float32),
    weight=make(B, dtype=jnp.float32),
    columns={name: make(B, k, T, dtype=jnp.float32) for name in columns},
    trunk=make(R, L, D, dtype=jnp.float32) if trunk else None,
    feedback_kind=kind,
  )


def passes(found, microbatches=1, model=MODEL):
  """{"policy blocks": 1, ..}: forward passes of a program, a microbatch."""
  count = collections.Counter()
  for (leaf, way), tokens in jaxprs.products(found, OUTER).items():
    if way == "backward":
      continue
    owners = ("policy", "value", "reference", "trunk", "top")
    owner = next(part for part in leaf.split("/") if part in owners)
    size, what = R * M, {"embedding": "logits", "kernel": "head"}
    what = what.get(leaf.split("/")[-1])
    if what is None:
      what = "adapters" if leaf.endswith("_down") else "blocks"
      first = model.trunk_blocks
      size = R * L * (first if owner == "trunk" else N - first)
    times, rest = divmod(tokens, microbatches * size)
    assert not rest, (leaf, tokens)
    count[f"{owner} {what}"] += times
  return dict(count)


def scored(objective, cached=False, trunk=False):
  params, frozen = start(objective)
  key = jax.eval_shape(lambda: jax.random.key(0))
  run = lambda p, f, b, key: objective.score(p, f, b, 0, key, True)
  batches = batch(objective, cached, trunk=trunk)
  found = jaxprs.trace(run, params, frozen, batches, key)
  return passes(found, model=objective.model)


def stepped(objective, cached, microbatches):
  """The trace of a whole train step."""
  params, frozen = start(objective)
  tx, make = optax.sgd(0.1), objective.method.init_state
  scalar = array(dtype=jnp.int32)
  state = TrainState(
    step=scalar,
    params=params,
    opt_state=jax.eval_shape(tx.init, params),
    key=jax.eval_shape(lambda: jax.random.key(0)),
    method_state=make(objective.settings) if make else None,
    skipped=scalar,
  )
  step = make_train_step(objective, tx, lambda s: 0.1)
  batches = batch(objective, cached, (microbatches,))
  return jaxprs.trace(step, state, frozen, batches)


# One microbatch, scored.


@pytest.mark.parametrize("name", methods.names())
def test_every_method_costs_what_its_needs_say(name):
  """A method that no list above names may be of any class that costs known."""
  whole = objective(name, {})
  needs = " ".join(sorted(whole.method.needs({}) - FREE))
  assert needs == CLASS_OF.get(name, needs)
  assert scored(whole) == COSTS[needs][0]


@pytest.mark.parametrize("name, keywords, needs", SETTINGS)
def test_a_setting_drops_what_it_makes_idle(name, keywords, needs):
  live, column = COSTS[needs]
  whole = objective(name, keywords)
  assert scored(whole) == live
  assert scored(whole, cached=True) == column


@pytest.mark.parametrize("needs", COSTS)
def test_a_cached_reference_is_not_computed(needs):
  name = "rm_token" if "scores" in needs else "tdpo1"
  whole = objective(name, {}, needs=needs)
  assert scored(whole) == COSTS[needs][0]
  assert scored(whole, cached=True) == COSTS[needs][1]


def test_policy_reference_and_value_share_the_frozen_blocks():
  model = dataclasses.replace(MODEL, trunk_blocks=1)
  whole = objective("dro", {}, model)
  # One table for all logits: it is in the trunk.
  own = {"policy blocks": 1, "reference blocks": 1, "trunk logits": 2} | VALUE
  assert scored(whole) == own | {"trunk blocks": 1}
  assert scored(whole, trunk=True) == own  # cached states


def test_adapters_run_for_the_policy_alone():
  whole = objective("dpo", {}, dataclasses.replace(MODEL, lora=(RANK, 1.0)))
  base = {"top blocks": 2, "top logits": 2, "policy adapters": 1}
  assert scored(whole) == base
  once = {"top blocks": 1, "top logits": 1, "policy adapters": 1}
  assert scored(whole, cached=True) == once


# A whole step. The backward pass computes blocks and logits again.

TWICE = {"policy blocks": 2, "policy logits": 2}
THRICE = {"policy blocks": 3, "policy logits": 3}  # scored, forward, again
TRAINED_VALUE = {"value blocks": 2, "value head": 1}
STEPS = [
  ("sft", {}, 2, TWICE),
  ("dpo", {}, 2, TWICE | REFERENCE),
  ("tdpo1", {}, 2, TWICE | {"reference blocks": 1, "reference logits": 2}),
  ("wpo", {}, 2, TWICE | REFERENCE),
  ("pairwise_cringe", {}, 2, TWICE),
  ("dro", {}, 2, TWICE | REFERENCE | TRAINED_VALUE),
  ("ppo", {"entropy_coef": 0.1}, 2, TWICE | REFERENCE | TRAINED_VALUE),
  ("rm_bt", {}, 2, {"policy blocks": 2, "policy head": 1}),
  # Coupled: one more pass without gradient, the reference in that one alone.
  ("kto", {}, 4, THRICE | REFERENCE),
  ("beta_dpo", {}, 2, THRICE | REFERENCE),
  ("aot", {}, 2, THRICE | REFERENCE),
  # A mean over tokens of its own: as if coupled.
  ("orpo", {"nll_norm": "batch_token_mean"}, 2, THRICE),
  # As well; its chunks are always computed again, none is kept.
  ("cringe", {}, 2, {"policy blocks": 3, "policy logits": 2}),
  # Not coupled by these settings, or nothing to couple.
  ("kto", {"z0_mode": "zero"}, 2, TWICE | REFERENCE),
  ("bco", {"delta_mode": "zero"}, 2, TWICE | REFERENCE),
  ("kto", {}, 1, TWICE | REFERENCE),
  ("beta_dpo", {}, 1, TWICE | REFERENCE),
  ("cringe", {}, 1, TWICE),
]


@pytest.mark.parametrize("name, keywords, parts, wanted", STEPS)
def test_a_step_computes_nothing_twice_without_need(
  name, keywords, parts, wanted
):
  whole = objective(name, keywords)
  found = stepped(whole, False, parts)
  assert passes(found, parts) == wanted
  # No [.., T, V]: beside V there is a chunk of tokens, or the width.
  largest = D if whole.method.trains_reward else CHUNK_TOKENS
  assert jaxprs.widest(found, V) == largest < R * M


@pytest.mark.parametrize("name, wanted", [("dpo", TWICE), ("bco", THRICE)])
def test_a_step_reads_a_cached_reference(name, wanted):
  assert passes(stepped(objective(name, {}), True, 2), 2) == wanted


def test_evaluation_is_one_pass_without_gradient():
  whole = objective("kto", {})
  params, frozen = start(whole)
  batches = batch(whole, False, (2,))
  found = jaxprs.trace(make_evaluate(whole), params, None, frozen, batches)
  assert passes(found, 2) == POLICY | REFERENCE


# What is computed is read.


def outputs(method, settings, x):
  """What training takes from x: the loss, and the columns of a rollout."""
  out = method.loss(x, **settings)
  made = None
  if method.prepare:
    x = method.prepare(x, **settings)
    made = x.advantages, x.token_feedback
  return out.loss, out.weight, out.terms, out.state, made


@pytest.mark.parametrize("name", methods.names())
def test_no_need_is_idle(name):
  """At the defaults, and where something is set to 0 or False."""
  method = methods.get(name)
  for settings in variants.variants(method):
    values = [v for k, v in settings.items() if v != method.keywords[k]]
    fields = {need.split(":")[0] for need in method.needs(settings)}
    fields &= {field.name for field in dataclasses.fields(LossInputs)}
    if not fields or any(values):
      continue
    kind = inputs.feedback_kinds(method)[0]
    k = inputs.list_sizes(method, settings, kind)[-1]
    x = variants.make(method, (kind, k), settings, dtype=jnp.float32)
    read = jaxprs.read(lambda x: outputs(method, settings, x), x)
    assert fields <= read, settings
