"""Iterative CRINGE: pairwise CRINGE on people's pairs, then on its own samples.

Paper: https://arxiv.org/abs/2312.16682

    xpo run --config=configs/recipes/iterative_cringe.py:smollm --workdir=runs/i

The first policy learns from film pairs. A round draws 4 samples a prompt from
the newest policy, keeps the best and the worst by the reward model, and goes on
from that policy on both kinds of pairs: as many of the film pairs are in every
step, as a second loss. There is no reference model. Expect `cringe/gate` to
fall, and gold to rise over the rounds.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant
  base = recipes.train(variant, "pairwise_cringe", "stage:sft")
  number = 2
  if variant == "tiny":
    base.data.limit, number = 320, 1

  def draw(policy):
    return recipes.generate(variant, "best_worst", (policy,), completions=4)

  def learn(policy):
    stage = recipes.iterate(variant, "pairwise_cringe", policy)
    stage.aux.method, stage.aux.source = "pairwise_cringe", "films"
    stage.aux.limit, stage.batch.prompts = base.data.limit, 8
    return stage

  stages, policies = recipes.rounds(number, draw, learn, "stage:cringe")
  stages = dict(
    reward=recipes.reward(variant),
    cringe=base,
    **stages,
    evaluate=recipes.evaluate(variant, {"cringe": "stage:cringe", **policies}),
  )
  return recipes.recipe("iterative CRINGE", variant, stages)
