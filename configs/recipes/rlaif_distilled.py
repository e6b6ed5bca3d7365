"""RLAIF: a language model labels pairs, a reward model learns, RLOO follows.

Paper: https://arxiv.org/abs/2309.00267

    xpo run --config=configs/recipes/rlaif_distilled.py:smollm --workdir=runs/ai

The start model is asked which of two samples is better, 1 or 2, in both orders;
P is the label of a Bradley-Terry loss. No human label is used but in SFT and by
the gold model that watches. The paper runs REINFORCE with a value model; a
judge of 135M parameters agrees with people little above chance, so that gold
need not follow the reward. A tiny model cannot judge: there the judge is a word
list, and SFT is all that is learned from people.
"""

from xpo_jax import config, recipe_feedback, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant
  judge = recipe_feedback.ai_judge(variant, "pairwise")
  pairs = recipes.generate(
    variant, "soft_pairs", completions=2, prompts=128, judge=judge
  )
  reward = recipes.reward(variant)
  recipes.on_rows(reward, "stage:pairs/data.jsonl", steps=16)
  evaluate = recipes.evaluate(variant, {"rloo": "stage:rloo"}) | dict(
    judge=judge, labelled="" if variant == "tiny" else "films"
  )
  stages = dict(
    pairs=pairs,
    reward=reward,
    rloo=recipes.online(variant, "rloo", beta=0.03),
    evaluate=evaluate,
  )
  return recipes.recipe("RLAIF, distilled", variant, stages)
