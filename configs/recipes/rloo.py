"""RLOO: REINFORCE on a reward model, each sample against the others' mean.

Paper: https://arxiv.org/abs/2402.14740

    xpo run --config=configs/recipes/rloo.py:smollm --workdir=runs/rloo

Stages: SFT, a gold judge that only watches, a reward model, RLOO with 4 samples
a prompt and beta .03, evaluation. Expect the reward and, more slowly, gold to
rise at a few nats of KL.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant
  stages = dict(
    reward=recipes.reward(variant),
    rloo=recipes.online(variant, "rloo", beta=0.03),
    evaluate=recipes.evaluate(variant, {"rloo": "stage:rloo"}),
  )
  return recipes.recipe("RLOO", variant, stages)
