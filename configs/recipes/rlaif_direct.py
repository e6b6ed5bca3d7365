"""Direct RLAIF: a language model's rating is the reward itself.

Paper: https://arxiv.org/abs/2309.00267 (section 2.3)

    xpo run --config=configs/recipes/rlaif_direct.py:smollm --workdir=runs/dr

The start model rates every sample; the reward is its expected rating from 1 to
10, put into [-1, 1]. RLOO stands for the paper's REINFORCE with a value model.
Expect the reward to rise; ratings of a model of 135M parameters say little, so
that gold need not follow. A tiny model cannot judge: there the judge is a word
list.
"""

from xpo_jax import config, recipe_feedback, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant
  judge = recipe_feedback.ai_judge(variant, "rating")
  evaluate = recipes.evaluate(variant, {"rloo": "stage:rloo"})
  stages = dict(
    rloo=recipes.online(variant, "rloo", judge, beta=0.03),
    evaluate=evaluate | dict(judge=judge),
  )
  return recipes.recipe("RLAIF, direct", variant, stages)
