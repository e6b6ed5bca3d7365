"""Dr. GRPO: GRPO without its two biases, of length and of deviation.

Paper: https://arxiv.org/abs/2503.20783

    xpo run --config=configs/recipes/dr_grpo.py:smollm --workdir=runs/dr_grpo

A token's loss is divided by the longest completion instead of its own, a reward
is centred and not scaled, and there is no KL term: only the clip and the number
of steps hold the policy. Expect the reward to rise as with GRPO, at a larger
KL.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant
  stage = recipes.online(variant, "dr_grpo")
  stage.method.loss_length = stage.data.max_completion_length
  stage.rollout.completions, stage.batch.prompts = 8, stage.batch.prompts // 2
  stages = dict(
    reward=recipes.reward(variant),
    dr_grpo=stage,
    evaluate=recipes.evaluate(variant, {"dr_grpo": "stage:dr_grpo"}),
  )
  return recipes.recipe("Dr. GRPO", variant, stages)
