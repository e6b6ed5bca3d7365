"""Stages of recipes in which a model takes the place of people."""

from xpo_jax import recipes
from xpo_jax.stages import judge_examples, propose, revise

COMPARERS = ("scores", "pairs")


def ai_judge(variant: str, name: str) -> dict:
  """The start model as a judge; a word list where it is tiny."""
  if variant == "tiny":
    return {"name": "sentiment"}
  return {"name": name, "source": recipes.START}


def constitutional(variant: str) -> dict:
  """Stages `revisions` and `cai`, SFT on them and on reviews by people."""
  tiny = variant == "tiny"
  revisions = revise.section(
    revisions=2,
    policy="stage:sft" if tiny else recipes.START,
    data=dict(source="films"),
    prompts=recipes.pick(variant, 32, 48),
    skip_critique=tiny,
    # A reply that is cut off is none.
    max_new_tokens=recipes.pick(variant, 24, 160),
    temperature=recipes.pick(variant, 1.0, 0.7),
    template="plain" if tiny else "chat",
    lead=" ",
  )
  cai = recipes.train(variant, "sft", "stage:sft")
  cai.batch.prompts = 8  # many a revision is cut off, and is none
  cai.aux.method, cai.aux.source, cai.aux.format = "sft", "films", "texts"
  recipes.on_rows(cai, "stage:revisions/data.jsonl", steps=12)
  return dict(revisions=revisions, cai=cai)


def comparer(variant: str, by: str):
  """A stage that learns to compare two texts, and the judge section of it.

  Args:
    variant: of the recipe.
    by: scores: sigma(r_1 - r_2) of a reward model; pairs: a preference model,
      which a small model does not learn to be (SmolLM2-135M on 720 pairs agrees
      with people about 51% of 192 others, its reward model about 73%).
  """
  if by == "scores":
    judge = {"name": "reward_model", "source": "stage:reward"}
    return {"reward": recipes.reward(variant)}, judge
  judge = {"name": "preference_model", "source": "stage:preference"}
  return {"preference": recipes.preference_model(variant)}, judge


def taught_to_judge(variant: str) -> dict:
  """Stages `examples` and `first`, SFT on judging and on reviews by people."""
  tiny = variant == "tiny"
  examples = judge_examples.section(
    rated=dict(source="films"),
    low=-3.0,
    high=3.0,
    each=8 if tiny else 80,
    seed=0,
  )
  first = recipes.train(variant, "sft", "stage:sft")
  first.data.max_prompt_length, first.batch.row_length = 448, 512
  first.data.overlong_prompt = "left" if tiny else "drop"
  first.batch.prompts = 8
  first.aux.method, first.aux.source, first.aux.format = "sft", "films", "texts"
  first.aux.prompts = 16
  recipes.on_rows(first, "stage:examples/data.jsonl")
  return dict(examples=examples, first=first)


def own_judge(variant: str, name: str, policy: str) -> dict:
  """A policy as the judge of its samples; where it is tiny, its log-ratio."""
  judge = dict(name=name, source=policy)
  if variant == "tiny":
    return judge | dict(name="implicit", reference="stage:sft", beta=0.1)
  if name == "additive":
    judge |= dict(samples=3, max_invalid=0.5)
  return judge


def new_films(variant: str, number: int) -> dict:
  """Stage `prompts` writes those of all rounds: titles, in films' form."""
  tiny = variant == "tiny"
  prompts = propose.section(
    shots=8,
    policy="stage:sft" if tiny else recipes.START,
    data=dict(source="films"),
    heading="Films:",
    lead="Film: ",
    suffix="\nCritic:",
    prompts=number,
    requests=8 * number,
    max_new_tokens=40 if tiny else 24,
    top_p=0.9,
    template="plain",
    min_words=1,
    max_words=20 if tiny else 10,
    keywords=(),
  )
  return dict(prompts=prompts)
