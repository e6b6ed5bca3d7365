"""Best-of-n distillation: imitates the best of 16 samples by a reward model.

Paper: https://arxiv.org/abs/2204.05862 (rejection sampling), and
https://arxiv.org/abs/2210.10760

    xpo run --config=configs/recipes/best_of_n.py:smollm --workdir=runs/bon

The SFT policy writes 16 reviews a film, the reward model picks one, SFT goes on
with these. The best of n is at most ln n - (n - 1) / n = 1.84 nats away, so
expect gold to rise a little at a KL below that.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=recipes.VARIANTS).variant
  best = recipes.generate(variant, "best_of_n", completions=16)
  imitate = recipes.train(variant, "sft", "stage:sft")
  imitate.batch.prompts = 16
  stages = dict(
    reward=recipes.reward(variant),
    best=best,
    bon=recipes.on_rows(imitate, "stage:best/data.jsonl", steps=12),
    evaluate=recipes.evaluate(variant, {"bon": "stage:bon"}),
  )
  return recipes.recipe("best of n", variant, stages)
