"""Reward models: two of equal size, on pairs of different films.

Paper: https://arxiv.org/abs/2203.02155 (section 3.5)

    xpo run --config=configs/recipes/reward_model.py:smollm --workdir=runs/rm

`loss=rm_kwise`, `rm_negative` or `rm_token` is another loss on the same films.
The evaluation lets both models choose the best of 2 to 8 samples of the SFT
policy. Expect both to rank over 60% of held-out pairs as people did, and the
best by one model to be good by the other as well.
"""

from xpo_jax import config, recipes

LOSSES = ("rm_bt", "rm_kwise", "rm_negative", "rm_token")


def get_config(arg: str = ""):
  chosen = config.parse_arg(arg, variant=recipes.VARIANTS, loss=LOSSES)
  variant = chosen.variant
  reward = recipes.reward(variant, chosen.loss)
  if chosen.loss == "rm_kwise":
    reward.data.format = "lists"
  evaluate = recipes.evaluate(variant, {}) | dict(
    rewards={"reward": "stage:reward", "gold": "stage:gold"},
    completions=8,
    labelled="" if variant == "tiny" else "films",
  )
  stages = dict(reward=reward, evaluate=evaluate)
  return recipes.recipe("reward model", variant, stages)
