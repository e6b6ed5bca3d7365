"""Self-rewarding: the policy judges its own samples, and learns from that.

Paper: https://arxiv.org/abs/2401.10020

    xpo run --config=configs/recipes/self_rewarding.py:smollm --workdir=runs/me

First SFT on review sentences and on examples of judging (raters' means as 0..5
points); then rounds of 4 samples at temperature .7, 3 replies of the same model
as judge for each, and DPO on the best and the worst against it. Prompts are
further films; with `prompts=own` a fixed model writes them after 8 examples, as
in the paper. `judge=rating` takes the expected rating instead of replies: much
faster. `:tiny` cannot judge: its log-ratio to the SFT policy takes the place of
points. Expect a gap between the scores of pairs; 135M parameters judge badly.
"""

from xpo_jax import config, recipe_feedback, recipes
from xpo_jax.stages import judge_examples

ROUNDS, PROMPTS = 2, 32  # of each round


def get_config(arg: str = ""):
  chosen = config.parse_arg(
    arg,
    variant=recipes.VARIANTS,
    judge=("additive", "rating"),
    prompts=("films", "own"),
  )
  variant = chosen.variant
  tiny = variant == "tiny"
  rated = dict(judge_examples.DEFAULTS["rated"], source="films")
  first = recipes.train(variant, "sft", "stage:sft")
  first.data.max_prompt_length, first.batch.row_length = 448, 512
  first.batch.prompts = 8
  first.data.overlong_prompt = "left" if tiny else "drop"
  first.aux.method, first.aux.source, first.aux.format = "sft", "films", "texts"
  first.aux.prompts = 16
  own = chosen.prompts == "own"
  further = (
    dict(prompts=recipe_feedback.new_films(variant, ROUNDS * PROMPTS))
    if own
    else {}
  )

  def draw(policy):
    judge = dict(name=chosen.judge, source=policy)
    if tiny:
      judge |= dict(name="implicit", reference="stage:sft", beta=0.1)
    elif chosen.judge == "additive":
      judge |= dict(samples=3, max_invalid=0.5)
    samples = recipes.generate(
      variant,
      "best_worst",
      (policy,),
      completions=4,
      prompts=PROMPTS,
      temperatures=(0.7,),
      top_p=0.9,
      judge=judge,
    )
    if own:
      samples.data.source = "stage:prompts/data.jsonl"
    return samples

  def learn(policy):
    stage = recipes.iterate(variant, "dpo", policy, beta=0.1)
    stage.batch.prompts = 8  # prompts whose scores are equal leave no pair
    return stage

  stages, policies = recipes.rounds(ROUNDS, draw, learn, "stage:first")
  stages = dict(
    examples=dict(
      rated=rated, low=-3.0, high=3.0, each=8 if tiny else 80, seed=0
    ),
    first=recipes.on_rows(first, "stage:examples/data.jsonl"),
    **further,
    **stages,
    evaluate=recipes.evaluate(variant, {"first": "stage:first", **policies}),
  )
  return recipes.recipe("self-rewarding language model", variant, stages)
