"""Recipes against what their papers run, read from the configs alone."""

import pathlib

from ml_collections import ConfigDict
import pytest

from xpo_jax import evaluation, flags, methods, pipeline, recipes
from xpo_jax.data import convert, formats
from xpo_jax.data.records import Group
from xpo_jax.errors import XpoError
from xpo_jax.online import settings
from xpo_jax.stages import (
  generate,
  judge_examples,
  merge,
  propose,
  revise,
  rows,
  selection,
)

FOLDER = pathlib.Path(__file__).parents[1] / "configs" / "recipes"
OPTIONS = {
  "dapo": ("judge=model",),
  "grpo": ("kl=k2", "kl=k1_reward"),
  "instructgpt": ("ptx=off",),
  "nash_ema": ("judge=pairs",),
  "nash_md": ("judge=pairs",),
  "online_dpo": ("loss=ipo",),
  "online_rlhf": ("ref=previous",),
  "reinforce_pp": ("baseline=on",),
  "reward_model": ("loss=rm_kwise", "loss=rm_negative", "loss=rm_token"),
  "self_rewarding": ("judge=rating", "prompts=own"),
  "slic_sample_rank": ("ranker=pairwise",),
  "sppo": ("judge=pairs",),
}
CASES = [
  (path.stem, option)
  for path in sorted(FOLDER.glob("*.py"))
  for option in ("", *OPTIONS.get(path.stem, ()))
]
# Two rows of every layout; films have them under these formats.
MADE = {
  "pairs": (("a", "b"), (), None),
  "demonstrations": (("a",), (), None),
  "scores": (("a", "b", "c"), (1.0, 3.0, 2.0), None),
  "win_rates": (("a", "b"), (0.75, 0.25), None),
  "samples": (("a", "b"), (), "c"),
}
FILMS = {
  "auto": "pairs",
  "pairs": "pairs",
  "texts": "demonstrations",
  "lists": "scores",
}


def recipe(name: str, variant: str = "smollm", option: str = ""):
  return flags.load_config_file(f"{FOLDER / name}.py:{variant},{option}")


def example(layout: str) -> list[Group]:
  texts, values, rejected = MADE[layout]
  made = rows.make_row(layout, "Q:", texts, values, rejected)
  return [formats.parse(made, layout, "f:1")]


def groups_of(chosen, source: str, format: str) -> list[Group]:
  """Rows as a training stage of a recipe reads them."""
  if source == "films":
    return example(FILMS[format])
  stage = chosen.stages[source.removeprefix("stage:").partition("/")[0]]
  if "select" in stage:
    return example(selection.KINDS[stage.select].layout)
  return example("demonstrations")  # of revisions, and of judging


@pytest.mark.parametrize("variant", recipes.VARIANTS)
@pytest.mark.parametrize("name, option", CASES)
def test_every_stage_can_learn_from_its_rows(name, option, variant):
  chosen = recipe(name, variant, option)
  for own in chosen.stages.values():
    if "method" not in own or settings.is_online(own):
      continue
    parts = [(own.method.name, own.data.source, own.data.format)]
    if own.data.eval_source:
      parts.append((own.method.name, own.data.eval_source, own.data.format))
    if own.aux.method:
      parts.append((own.aux.method, own.aux.source, own.aux.format))
    for method, source, format in parts:
      given = groups_of(chosen, source, format)
      found = methods.get(method)
      made = convert.convert(
        given, found.feedback, found.completions, found.needs({})
      )
      assert made and made[0].kind in found.feedback


@pytest.mark.parametrize("variant", recipes.VARIANTS)
@pytest.mark.parametrize("name", sorted(p.stem for p in FOLDER.glob("*.py")))
def test_every_checkpoint_that_is_named_is_kept(name, variant):
  chosen = recipe(name, variant)
  for own in chosen.stages.values():
    for source in own.get("policies", ()):
      stage, _, step = source.removeprefix("stage:").partition("@")
      if not step:
        continue
      train = chosen.stages[stage].train
      saved = range(train.save_every, train.steps + 1, train.save_every)
      assert int(step) in [*saved][-train.keep :]


def test_snapshots_are_of_the_whole_way():
  for variant in recipes.VARIANTS:
    chosen = recipe("anthropic_online", variant)
    first, *found = chosen.stages.pairs2.policies
    steps = chosen.stages.ppo1.train.steps
    assert first == "stage:sft"
    ways = [int(p.partition("@")[2]) / steps for p in found]
    assert ways == pytest.approx([1 / 3, 2 / 3, 1], abs=0.05)


def test_online_ipo_has_the_papers_tau():
  """methods.md 14.4: a wanted log-ratio of 1 / (2 tau) = 1/2 nat, not 5."""
  assert (
    recipe("online_dpo", option="loss=ipo").stages.online_dpo.method.tau == 1
  )
  assert recipe("online_dpo").stages.online_dpo.method.beta == 0.1


@pytest.mark.parametrize("ref", ["initial", "previous"])
def test_every_round_of_online_rlhf_sees_its_pairs_as_often(ref):
  stages = recipe("online_rlhf", option=f"ref={ref}").stages
  assert not stages.pairs1.also
  for n in (2, 3):
    own, first = stages[f"dpo{n}"], stages.dpo1
    also = stages[f"pairs{n}"].also  # the file holds all rounds before it
    assert also == (
      (f"stage:pairs{n - 1}/data.jsonl",) if ref == "initial" else ()
    )
    assert own.train.steps == (n if also else 1) * first.train.steps
    start = "stage:sft" if ref == "initial" else f"stage:dpo{n - 1}"
    assert own.model.source == start and not own.reference.source


def test_the_helpful_half_of_constitutional_sft_is_there():
  for name in ("cai_sl", "cai_rl"):
    cai = recipe(name).stages.cai
    assert cai.data.source == "stage:revisions/data.jsonl"
    assert (cai.aux.method, cai.aux.source, cai.aux.format) == (
      "sft",
      "films",
      "texts",
    )


def test_the_gold_of_dno_is_the_best_by_its_mean_rating():
  stages = recipe("dno").stages
  for n in (1, 2, 3):
    own = stages[f"samples{n}"]
    assert own.gold and own.data.format == "lists"
    assert stages[f"round{n}"].model.source == own.policies[0]


@pytest.mark.parametrize("variant", recipes.VARIANTS)
def test_own_prompts_are_enough_for_all_rounds(variant):
  """methods.md 6.1: 8-shot, by a fixed model; each round has its own."""
  found = recipe("self_rewarding", variant, "prompts=own")
  films = recipe("self_rewarding", variant)
  stages, wanted = found.stages, found.stages.prompts
  assert wanted.shots == 8 and wanted.policy != "stage:first"
  rounds = [n for n in found.order if n.startswith("samples")]
  assert found.order.index("prompts") < found.order.index(rounds[0])
  for n, name in enumerate(rounds):
    own = stages[name].to_dict()
    assert own["first"] == n * own["prompts"]
    assert own["data"].pop("source") == "stage:prompts/data.jsonl"
    other = films.stages[name].to_dict()
    assert other["data"].pop("source") == "films" and own == other
  assert wanted.prompts == sum(stages[name].prompts for name in rounds)
  assert [n for n in found.order if n != "prompts"] == list(films.order)


def test_ppo_of_anthropic_has_a_tiny_pull():
  """methods.md 2.2, and 3.1: `then PPO as 2.2`."""
  assert recipe("anthropic_hh").stages.ppo.method.kl_coef == 0.001
  assert recipe("cai_rl").stages.ppo.method.kl_coef == 0.001


def test_negative_rewards_learn_from_no_text_that_people_liked():
  stages = recipe("reward_model", option="loss=rm_negative").stages
  assert stages.samples.select == "self_samples"
  assert stages.samples.data.format == "binary"
  assert stages.reward.data.source == "stage:samples/data.jsonl"
  assert list(recipe("reward_model").stages).count("samples") == 0


@pytest.mark.parametrize("variant", recipes.VARIANTS)
@pytest.mark.parametrize("name, option", CASES)
def test_a_value_model_starts_where_the_policy_does(name, option, variant):
  """Under LoRA it takes the reward model's factors, over the same base."""
  stages = recipe(name, variant, option).stages
  for own in stages.values():
    if "rollout" not in own or not own.rollout.value_source:
      continue
    source = own.rollout.value_source.removeprefix("stage:")
    assert stages[source].model.source == own.model.source


def override(name: str, option: str = "", **keys: str):
  """A recipe's stages with flags --config.stages.A.B=.., A_B here; checked."""
  given = {f"stages.{k.replace('__', '.')}": v for k, v in keys.items()}
  chosen = flags.override(recipe(name, "tiny", option), given)
  stages = pipeline.resolve(chosen, pathlib.Path("runs"))
  for own, stage in stages.items():
    pipeline.check(own, stage)
  return ConfigDict(stages)


OPERATORS = {  # what each is made of, besides the sources, and a flag of it
  "ties": {"weights", "scale", "densities", "trim_scope"},
  "linear": {"weights", "normalise"},
  "task_arithmetic": {"weights", "scale"},
  "dare_linear": {"weights", "normalise", "drop"},
  "dare_ties": {"weights", "scale", "densities", "trim_scope", "drop"},
  "slerp": {"t", "space"},
}
NEW = {  # key -> a flag's text, the value
  "weights": ("(1.0,3.0)", (1.0, 3.0)),
  "densities": ("(0.5,0.25)", (0.5, 0.25)),
  "scale": ("0.5", 0.5),
  "trim_scope": ("tensor", "tensor"),
  "normalise": ("false", False),
  "drop": ("0.25", 0.25),
  "t": ("0.25", 0.25),
  "space": ("deltas", "deltas"),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_paft_merges_with_every_operator_and_its_keys(operator):
  """methods.md 8.2: linear, task arithmetic, TIES, DARE, SLERP."""
  assert merge.OPTIONS.keys() == OPERATORS.keys()
  keys = OPERATORS[operator]
  given = {f"merge__{key}": NEW[key][0] for key in keys}
  found = override("paft", f"merge={operator}", **given).merge
  assert found.operator == operator
  assert {k: found[k] for k in keys} == {k: NEW[k][1] for k in keys}
  common = {"operator", "sources", "base", "dtype", "seed"}
  assert {*found} == common | keys
  if "densities" in keys:  # the sparse part is merged as a whole
    plain = recipe("paft", "tiny", f"merge={operator}").stages.merge
    assert plain.densities == (1.0, 0.2)


def test_paft_is_ties_and_says_how_to_choose_another():
  assert override("paft").merge == override("paft", "merge=ties").merge
  with pytest.raises(XpoError) as error:
    override("paft", merge__operator="slerp")
  assert "densities is unknown to slerp, only ties, dare_ties" in str(
    error.value
  )
  assert "merge=OPERATOR" in str(error.value)


WHOLE = {  # recipe, stage -> its keys
  ("cai_sl", "revisions"): revise.DEFAULTS,
  ("cai_rl", "pairs"): generate.DEFAULTS,
  ("self_rewarding", "examples"): judge_examples.DEFAULTS,
  ("self_rewarding", "prompts"): propose.DEFAULTS,
  ("rloo", "evaluate"): {
    **dict.fromkeys(evaluation.KEYS),
    **evaluation.DEFAULTS,
  },
}


@pytest.mark.parametrize("name, stage", WHOLE)
def test_every_key_of_a_stage_is_there_for_a_flag(name, stage):
  option = "prompts=own" if stage == "prompts" else ""
  assert {*recipe(name, "tiny", option).stages[stage]} == {*WHOLE[name, stage]}


def test_flags_reach_what_recipes_leave_at_its_default(tmp_path):
  principles = tmp_path / "mine.json"
  principles.write_text(
    '[{"id": "short", "compare": "Which is shorter?", "critique": "Is it long?"'
    ', "revise": "Cut it."}]'
  )
  given = dict(keep="last", examples="2", first="3", principles=str(principles))
  stages = override(
    "cai_sl",
    **{f"revisions__{key}": text for key, text in given.items()},
    evaluate__judge__name="sentiment",
    evaluate__labelled="films",
  )
  own = stages.revisions
  assert {k: str(own[k]) for k in given} == given and own.skip_critique
  assert stages.evaluate.judge.name == "sentiment"
  assert stages.evaluate.labelled == "films"
  stages = override(
    "self_rewarding", "prompts=own", prompts__seed="4", examples__low="-2"
  )
  assert (stages.prompts.seed, stages.examples.low) == (4, -2.0)
