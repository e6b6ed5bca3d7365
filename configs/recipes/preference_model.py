"""Preference model: reads two texts and says A or B.

Paper: https://arxiv.org/abs/2309.06657 (section 3.2)

    xpo run --config=configs/recipes/preference_model.py:smollm --workdir=runs/p

The SFT model goes on with rm_pairwise; each pair is a question in an order that
the seed draws. The evaluation asks it about held-out pairs in both orders, as
all users of such a model do. Expect its agreement with people to leave 50% and
the position bias (the same place wins in both orders) to fall below a half.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant
  evaluate = recipes.evaluate(variant, {}) | dict(
    judge=dict(name="preference_model", source="stage:preference"),
    labelled="" if variant == "tiny" else "films",
  )
  stages = dict(preference=recipes.preference_model(variant), evaluate=evaluate)
  return recipes.recipe("preference model", variant, stages)
