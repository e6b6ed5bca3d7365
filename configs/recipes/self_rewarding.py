"""Self-rewarding: the policy judges its own samples, and learns from that.

Paper: https://arxiv.org/abs/2401.10020

    xpo run --config=configs/recipes/self_rewarding.py:smollm --workdir=runs/me

First SFT on review sentences and on examples of judging (raters' means as 0..5
points); then rounds of 4 samples at temperature .7, 3 replies of the same model
as judge for each, and DPO on the best and the worst against it. Prompts are
further films; the paper has a model write them. `judge=rating`
takes the expected rating instead of replies: much faster. `:tiny` cannot judge:
its log-ratio to the SFT policy takes the place of points. Expect a gap between
the scores of pairs; 135M parameters judge badly.
"""

from xpo_jax import config, recipes
from xpo_jax.stages import judge_examples

ROUNDS = 2


def get_config(arg: str = ""):
  chosen = config.parse_arg(
    arg, variant=recipes.VARIANTS, judge=("additive", "rating")
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

  def draw(policy):
    judge = dict(name=chosen.judge, source=policy)
    if tiny:
      judge |= dict(name="implicit", reference="stage:sft", beta=0.1)
    elif chosen.judge == "additive":
      judge |= dict(samples=3, max_invalid=0.5)
    return recipes.generate(
      variant,
      "best_worst",
      (policy,),
      completions=4,
      prompts=32,
      temperatures=(0.7,),
      top_p=0.9,
      judge=judge,
    )

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
    **stages,
    evaluate=recipes.evaluate(variant, {"first": "stage:first", **policies}),
  )
  return recipes.recipe("self-rewarding language model", variant, stages)
