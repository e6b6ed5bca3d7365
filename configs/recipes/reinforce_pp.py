"""REINFORCE++: one sample a prompt, rewards to go whitened over the batch.

Paper: https://arxiv.org/abs/2501.03262

    xpo run --config=configs/recipes/reinforce_pp.py:smollm --workdir=runs/rpp

The KL to the SFT policy (.01) is in the tokens' rewards. `:smollm,baseline=on`
is the variant with 4 samples a prompt, whose mean is taken off first, and the
KL in the loss; both draw as many samples a step as RLOO here. Expect the reward
to rise, more noisily than with groups.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  chosen = config.parse_arg(
    arg, variant=recipes.VARIANTS, baseline=("off", "on")
  )
  variant = chosen.variant
  if chosen.baseline == "on":
    stage = recipes.online(variant, "reinforce_pp_baseline")
  else:
    stage = recipes.online(variant, "reinforce_pp", kl_coef=0.01)
    stage.rollout.completions, stage.batch.prompts = 1, 4 * stage.batch.prompts
  stages = dict(
    reward=recipes.reward(variant),
    reinforce_pp=stage,
    evaluate=recipes.evaluate(variant, {"reinforce++": "stage:reinforce_pp"}),
  )
  return recipes.recipe("REINFORCE++", variant, stages)
