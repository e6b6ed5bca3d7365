"""Reward models: two of equal size, on pairs of different films.

Paper: https://arxiv.org/abs/2203.02155 (section 3.5)

    xpo run --config=configs/recipes/reward_model.py:smollm --workdir=runs/rm

`loss=rm_kwise` or `rm_token` is another loss on the same films; `rm_negative`
has only reviews that people disliked, and samples of the SFT policy stand for
the good. The evaluation lets both models choose the best of 2 to 8 samples of
the SFT policy. Expect both to rank over 60% of held-out pairs as people did
(not rm_negative), and the best by one model to be good by the other as well.
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
  if chosen.loss == "rm_negative":
    samples = recipes.generate(variant, "self_samples", completions=4, judge={})
    samples.data.format = "binary"
    recipes.on_rows(reward, "stage:samples/data.jsonl")
    stages = dict(samples=samples, **stages)
  return recipes.recipe("reward model", variant, stages)
