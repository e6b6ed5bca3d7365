"""Self-rewarding: the policy judges its own samples, and learns from that.

Paper: https://arxiv.org/abs/2401.10020

    xpo run --config=configs/recipes/self_rewarding.py:smollm --workdir=runs/me

First SFT on review sentences and on examples of judging (raters' means as 0..5
points); then rounds of 4 samples, 3 replies of the same model as judge for
each, and DPO on the best and worst against it. Prompts are further films or,
with `prompts=own`, written by a fixed model after 8 examples. `judge=rating`
takes the expected rating: much faster. `:tiny` judges by its log-ratio to SFT.
Expect a gap between the scores of pairs; 135M parameters judge badly.
"""

from xpo_jax import config, recipe_feedback, recipes

ROUNDS, PROMPTS = 2, 32  # of each round
SAMPLES = dict(completions=4, temperatures=(0.7,), top_p=0.9)


def get_config(arg: str = ""):
  chosen = config.parse_arg(
    arg,
    variant=recipes.VARIANTS,
    judge=("additive", "rating"),
    prompts=("films", "own"),
  )
  variant, own = chosen.variant, chosen.prompts == "own"
  stages = recipe_feedback.taught_to_judge(variant)
  if own:
    stages |= recipe_feedback.new_films(variant, ROUNDS * PROMPTS)

  def draw(policy):
    judge = recipe_feedback.own_judge(variant, chosen.judge, policy)
    samples = recipes.generate(
      variant, "best_worst", (policy,), judge=judge, prompts=PROMPTS, **SAMPLES
    )
    if own:
      samples.data.source = "stage:prompts/data.jsonl"
    return samples

  def learn(policy):
    stage = recipes.iterate(variant, "dpo", policy, beta=0.1)
    stage.batch.prompts = 8  # prompts whose scores are equal leave no pair
    return stage

  made, policies = recipes.rounds(ROUNDS, draw, learn, "stage:first")
  policies = {"first": "stage:first", **policies}
  stages |= made | dict(evaluate=recipes.evaluate(variant, policies))
  return recipes.recipe("self-rewarding language model", variant, stages)
