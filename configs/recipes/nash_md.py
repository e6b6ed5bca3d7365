"""Nash-MD: beat a mixture of policy and reference, by a preference model.

Paper: https://arxiv.org/abs/2312.00886

    xpo run --config=configs/recipes/nash_md.py:smollm --workdir=runs/nash_md

The judge compares two texts, in both orders, and no reward stands behind it.
The opponent's logits are 3/4 policy and 1/4 SFT at every token; tau .008 is the
pull to the SFT policy. `rewards/judge` is P(the policy beats its opponent) and
stays near 1/2, because the opponent learns too: look at gold, which should
rise. `:tiny` cannot compare texts: its P is sigma(r_1 - r_2) of a reward model.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant
  stages, judge = recipes.comparer(variant)
  nash = recipes.against(variant, "nash_md", "mixture", judge, tau=0.008)
  nash.rollout.mix = 0.25
  stages |= dict(
    nash_md=nash,
    evaluate=recipes.evaluate(variant, {"nash-md": "stage:nash_md"}),
  )
  return recipes.recipe("Nash-MD", variant, stages)
