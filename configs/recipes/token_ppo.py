"""PPO on rewards of single tokens.

Paper: https://arxiv.org/abs/2407.16216 (section 2.1.3)

    xpo run --config=configs/recipes/token_ppo.py:smollm --workdir=runs/token

A reward model scores every token of a text; its sums are compared in training,
and PPO gets each token's own reward where it falls instead of one number at the
end. Nothing else judges the samples; gold only watches. Expect the mean sum,
`rewards/token_sum`, and, more slowly, gold to rise. A sum can grow by length
alone: watch `completions/tokens`.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant
  ppo = recipes.ppo(variant, kl_coef=0.02)
  ppo.judge.name = ppo.judge.source = ppo.rollout.value_source = ""
  ppo.rollout.token_rewards = "stage:reward"
  stages = dict(
    reward=recipes.reward(variant, "rm_token"),
    ppo=ppo,
    evaluate=recipes.evaluate(variant, {"ppo": "stage:ppo"}),
  )
  return recipes.recipe("PPO on token rewards", variant, stages)
