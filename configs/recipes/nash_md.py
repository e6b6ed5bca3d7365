"""Nash-MD: beat a mixture of policy and reference, by a preference model.

Paper: https://arxiv.org/abs/2312.00886

    xpo run --config=configs/recipes/nash_md.py:smollm --workdir=runs/nash_md

The judge compares two texts: P is sigma(r_1 - r_2) of a reward model, because a
small model does not learn to compare. `judge=pairs` takes a preference model,
asked in both orders, behind which no reward need stand. The opponent's logits
are 3/4 policy and 1/4 SFT at every token; tau .008 is the pull to the SFT
policy. `rewards/judge` is P(the policy beats its opponent) and stays near 1/2,
because the opponent learns too: look at gold, which should rise.
"""

from xpo_jax import config, recipe_feedback, recipes


def get_config(arg: str = ""):
  chosen = config.parse_arg(
    arg, variant=recipes.VARIANTS, judge=recipe_feedback.COMPARERS
  )
  variant = chosen.variant
  stages, judge = recipe_feedback.comparer(variant, chosen.judge)
  nash = recipes.against(variant, "nash_md", "mixture", judge, tau=0.008)
  nash.rollout.mix = 0.25
  stages |= dict(
    nash_md=nash,
    evaluate=recipes.evaluate(variant, {"nash-md": "stage:nash_md"}),
  )
  return recipes.recipe("Nash-MD", variant, stages)
