"""Anthropic's RLHF: PPO with a tiny KL penalty, watched by a second model.

Paper: https://arxiv.org/abs/2204.05862

    xpo run --config=configs/recipes/anthropic_hh.py:smollm --workdir=runs/hh

Two reward models of equal size learn from pairs of different films; PPO
optimises the one (KL coefficient .001), the other only watches. `eval/reward`
and `eval/gold` along the run, over the KL to SFT, are the over-optimisation
curve: expect both to rise, gold more slowly, and their gap to widen. The paper
has prompts of talks and no value model from the reward model.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant
  reward = recipes.reward(variant)
  reward.data.limit = recipes.gold(variant).data.limit
  ppo = recipes.ppo(variant, kl_coef=0.001)
  ppo.train.eval_every = 4
  evaluate = recipes.evaluate(variant, {"ppo": "stage:ppo"}) | dict(
    rewards={"reward": "stage:reward", "gold": "stage:gold"},
    judge=dict(name="reward_model", source="stage:gold"),
  )
  stages = dict(reward=reward, ppo=ppo, evaluate=evaluate)
  return recipes.recipe("Anthropic HH", variant, stages)
