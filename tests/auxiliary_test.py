"""A second loss on its own data: the sum of two gradients, and a whole run."""

import json
import math

import jax
import numpy as np
import optax
import pytest

from tests import runs, tiny
from xpo_jax import checkpoint, config, methods, train
from xpo_jax.errors import XpoError
from xpo_jax.step import make_train_step
from xpo_jax.trio import Frozen
from xpo_jax.types import TrainState

RATE = 0.5
COEF = 2.5


def one_step(objective, frozen, batch, auxiliaries=(), more=()):
  """(change of every parameter, metrics) of one step of gradient descent."""
  tx = optax.sgd(RATE)
  params = tiny.policy()
  state = TrainState(
    step=np.int32(0),
    params=params,
    opt_state=tx.init(params),
    key=jax.random.key(3),
    method_state=None,
    skipped=np.int32(0),
  )
  step = make_train_step(
    objective, tx, optax.constant_schedule(RATE), auxiliaries
  )
  run = jax.jit(step, compiler_options=tiny.QUICK)
  after, values = run(state, frozen, batch, *more)
  change = jax.tree.map(lambda a, b: np.asarray(a) - b, after.params, params)
  return change, jax.device_get(values)


@pytest.fixture(scope="module")
def parts():
  """The unlearning pair: forget by npo, keep by sft, each with its batch."""
  forget, keep = tiny.objective("npo"), tiny.objective("sft")
  frozen = Frozen(reference=tiny.params(1))
  first = tiny.batch(tiny.members(tiny.objective("kto"), 4, seed=1), 2)
  # npo learns from K = 1.
  first = first.replace(
    **{
      k: getattr(first, k)[:, :, :1] for k in ("present", "ended", "feedback")
    },
    completion_mask=first.completion_mask[:, :, :1],
    target_slot=_of_first_completion(first),
  )
  second = tiny.batch(tiny.members(keep, 6, seed=2), 2)
  return forget, keep, frozen, first, second


def _of_first_completion(batch):
  """Slots in [B, 1, T] of what was [B, 2, T]; the second one's are dropped."""
  _, b, k, t = batch.completion_mask.shape
  slot = np.asarray(batch.target_slot)
  prompt, completion, token = slot // (k * t), slot // t % k, slot % t
  inside = (slot < b * k * t) & (completion == 0)
  return np.where(inside, prompt * t + token, b * t).astype(np.int32)


def test_the_gradient_is_the_sum_of_both(parts):
  forget, keep, frozen, first, second = parts
  main, main_values = one_step(forget, frozen, first)
  extra, extra_values = one_step(keep, frozen, second)
  both, values = one_step(forget, frozen, first, [(keep, COEF)], [second])
  want = jax.tree.map(lambda a, b: a + COEF * b, main, extra)
  sizes = [np.abs(x).max() for x in jax.tree.leaves((main, extra))]
  assert max(sizes) > 1e-2
  assert tiny.far(both, want) < 2e-6
  assert values["loss/main"] == pytest.approx(main_values["loss"], rel=1e-6)
  assert values["loss/aux"] == pytest.approx(extra_values["loss"], rel=1e-6)
  total = values["loss/main"] + COEF * values["loss/aux"]
  assert values["loss"] == pytest.approx(total, rel=1e-6)
  assert "loss/main" not in main_values


def test_a_loss_that_is_not_finite_stops_the_whole_step(parts):
  forget, keep, frozen, first, second = parts
  broken = Frozen(reference=jax.tree.map(lambda x: x * np.nan, tiny.params(1)))
  change, values = one_step(forget, broken, first, [(keep, COEF)], [second])
  assert values["optimizer/skipped"] == 1
  assert tiny.far(change, jax.tree.map(np.zeros_like, change)) == 0


@pytest.mark.parametrize(
  "changes, words",
  [
    (dict(method="sft"), "aux.method='sft' has no data; set aux.source"),
    (dict(source="x.jsonl"), "aux.source='x.jsonl' is used by no loss"),
    (dict(method="sftt", source="x.jsonl"), "did you mean 'sft'?"),
    (dict(method="ppo", source="x"), "aux.method='ppo' needs advantages"),
    (dict(method="bco", source="x"), "aux.method='bco' needs running statist"),
    (dict(method="rm_bt", source="x"), "aux.method='rm_bt' needs scores"),
    (dict(method="sft", source="x", coef=0.0), "aux.coef=0.0 must be > 0"),
    (
      dict(method="sft", source="x", prompts=3),
      "aux.prompts=3 is no multiple of 2",
    ),
  ],
)
def test_an_aux_section_that_cannot_work_is_refused(changes, words):
  c = config.base("tiny").unlock()
  c.method = config.method("npo")
  c.data.source = "bad.jsonl"
  c.batch.microbatches = 2
  c.aux.update(changes)
  with pytest.raises(XpoError) as error:
    config.validate(c.lock())
  assert words in str(error.value)


@pytest.mark.parametrize(
  "method", ["sft", "dpo", "kto", "cringe", "npo", "rm_pairwise"]
)
def test_losses_on_fixed_data_can_be_auxiliary(method):
  c = config.base("tiny").unlock()
  c.method, c.data.source = config.method("npo"), "bad.jsonl"
  c.aux.update(method=method, source="x.jsonl")
  config.validate(c.lock())


def test_a_reward_model_learns_from_two_kinds_of_pairs_at_once():
  c = config.base("tiny").unlock()
  c.method, c.data.source = config.method("rm_token"), "ours.jsonl"
  c.aux.update(method="rm_bt", source="theirs.jsonl")
  config.validate(c.lock())


def on_policy_names():
  drawn = {"sampler_logps", "old_values", "advantages"}
  names = methods.names()
  return [n for n in names if drawn & methods.get(n).needs({})]


def test_losses_on_samples_are_refused_before_any_data(tmp_path):
  names = on_policy_names()
  assert {"ppo", "rloo", "grpo", "dr_grpo", "dapo", "gspo"} <= set(names)
  assert {"reinforce_pp", "reinforce_pp_baseline"} <= set(names)
  for name in names:
    c = runs.make(tmp_path, name, data__source="nowhere.jsonl")
    with pytest.raises(XpoError, match="learns from samples of the policy"):
      train.run(c, tmp_path / name, jax.devices()[:1])


def labelled(n: int) -> dict:
  row = runs.pair(n)
  return {
    "prompt": row["prompt"],
    "completion": row["rejected"],
    "label": False,
  }


def kept(n: int) -> dict:
  row = runs.pair(n)
  return {"prompt": row["prompt"], "completion": row["chosen"]}


@pytest.mark.slow
def test_unlearning_with_a_retain_term_runs_and_resumes(tmp_path):
  """npo forgets one set, sft keeps another; stopped and resumed bit for bit."""
  keep = runs.write(tmp_path / "keep.jsonl", map(kept, range(50, 62)))
  forget = runs.write(tmp_path / "forget.jsonl", map(labelled, range(16)))
  c = runs.make(
    tmp_path,
    "npo",
    aux__method="sft",
    aux__source=str(keep),
    aux__coef=1.0,
    aux__prompts=4,
    data__source=str(forget),
    data__eval_source="",
  )
  env = runs.environment(tmp_path / "cache")
  path = runs.save(c, tmp_path / "config.json")
  whole, parted = tmp_path / "whole", tmp_path / "parted"
  start = lambda run: runs.spawn(
    "train", f"--config={path}", f"--workdir={run}", env=env
  )
  code, out, err = runs.finish(start(whole))
  assert code == 0, err
  lines = runs.lines(whole)
  beta = 0.1
  first = 2 / beta * math.log(2)
  assert lines[0]["loss/main"] == pytest.approx(first, abs=1e-3)
  assert lines[0]["loss"] == pytest.approx(
    lines[0]["loss/main"] + lines[0]["loss/aux"], rel=1e-6
  )
  assert lines[-1]["loss/main"] < first and lines[-1]["loss/aux"] > 0
  summary = json.loads((whole / "summary.json").read_text())
  assert summary["steps"] == 6
  # The second run is killed after its first save and goes on.
  process = start(parted)
  while process.poll() is None and not checkpoint.saved_steps(parted):
    pass
  process.kill()
  runs.finish(process)
  code, out, err = runs.finish(start(parted))
  assert code == 0 and "resumed at step" in out, err
  runs.same_bits(runs.bits(parted), runs.bits(whole))
  # Other text to keep is another run.
  runs.write(keep, map(kept, range(70, 82)))
  code, _, err = runs.finish(start(parted))
  assert code == 66 and "data has changed" in err[0]
