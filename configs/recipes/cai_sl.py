"""Constitutional AI, supervised: imitates revisions of the model's own answers.

Paper: https://arxiv.org/abs/2212.08073 (section 3)

    xpo run --config=configs/recipes/cai_sl.py:smollm --workdir=runs/cai

The start model answers, criticises its answer by a principle of ours and
rewrites it, 2 times (the paper: 4). SFT goes on with all revisions and, as many
in every step, with reviews by people; those stand for the paper's helpful
answers (--config.stages.cai.aux.method= leaves them out). Expect every revision
to be another text; a model of 135M parameters seldom makes it a better one. A
tiny model cannot criticise: there the SFT policy rewrites its
reviews at once, without an understanding of what it is asked for.
"""

from xpo_jax import config, recipe_feedback, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant
  stages = recipe_feedback.constitutional(variant)
  stages["evaluate"] = recipes.evaluate(variant, {"cai": "stage:cai"})
  return recipes.recipe("Constitutional AI, SL", variant, stages)
