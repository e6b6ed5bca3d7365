"""Recipes against what their papers run, read from the configs alone."""

import pathlib

import pytest

from xpo_jax import flags, methods, recipes
from xpo_jax.data import convert, formats
from xpo_jax.data.records import Group
from xpo_jax.online import settings
from xpo_jax.stages import rows, selection

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
