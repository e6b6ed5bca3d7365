"""XPO: online DPO that moves away from the reference's samples to explore.

Paper: https://arxiv.org/abs/2405.21046

    xpo run --config=configs/recipes/xpo.py:smollm --workdir=runs/xpo

A pair is a sample of the policy and one of the SFT policy, with the reward
model's probability that the first one wins; alpha (1e-5, the paper gives none)
times the log-likelihood of the second is added to DPO's loss. Only the newest
pairs are learned, the theory keeps all. Expect `rewards/judge`, P(the policy
beats the SFT policy), to start at 1/2 and to rise.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant
  stage = recipes.online(variant, "xpo", beta=0.1, alpha=1e-5)
  stage.rollout.select, stage.rollout.opponent = "against_pair", "reference"
  stage.rollout.completions = 1
  stage.batch.prompts *= 2
  stages = dict(
    reward=recipes.reward(variant),
    xpo=stage,
    evaluate=recipes.evaluate(variant, {"xpo": "stage:xpo"}),
  )
  return recipes.recipe("XPO", variant, stages)
