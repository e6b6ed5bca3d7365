"""Nash-EMA: beat a slower self, by a preference model.

Paper: https://arxiv.org/abs/2312.00886

    xpo run --config=configs/recipes/nash_ema.py:smollm --workdir=runs/nash_ema

As Nash-MD, but the opponent is the policy with averaged weights. The decay is
.9 a step, because the paper's kind of .999 would still be the SFT policy after
the few steps here. Expect P(the policy beats its opponent), `rewards/judge`,
near or above 1/2, and gold to rise. `:tiny` cannot compare texts: its P is
sigma(r_1 - r_2) of a reward model.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant
  stages, judge = recipes.comparer(variant)
  nash = recipes.against(variant, "nash_ema", "ema", judge, tau=0.008)
  nash.rollout.ema_decay = 0.9
  stages |= dict(
    nash_ema=nash,
    evaluate=recipes.evaluate(variant, {"nash-ema": "stage:nash_ema"}),
  )
  return recipes.recipe("Nash-EMA", variant, stages)
