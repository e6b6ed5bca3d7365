"""Nash-EMA: beat a slower self, by a preference model.

Paper: https://arxiv.org/abs/2312.00886

    xpo run --config=configs/recipes/nash_ema.py:smollm --workdir=runs/nash_ema

As Nash-MD, but the opponent is the policy with averaged weights. The decay is
.9 a step, because the paper's kind of .999 would still be the SFT policy after
the few steps here. Expect P(the policy beats its opponent), `rewards/judge`,
near or above 1/2, and gold to rise. `judge=pairs` as there.
"""

from xpo_jax import config, recipe_feedback, recipes


def get_config(arg: str = ""):
  chosen = config.parse_arg(
    arg, variant=recipes.VARIANTS, judge=recipe_feedback.COMPARERS
  )
  variant = chosen.variant
  stages, judge = recipe_feedback.comparer(variant, chosen.judge)
  nash = recipes.against(variant, "nash_ema", "ema", judge, tau=0.008)
  nash.rollout.ema_decay = 0.9
  stages |= dict(
    nash_ema=nash,
    evaluate=recipes.evaluate(variant, {"nash-ema": "stage:nash_ema"}),
  )
  return recipes.recipe("Nash-EMA", variant, stages)
