"""RLOO: REINFORCE, each sample against the mean of the others.

Paper: https://arxiv.org/abs/2402.14740

    xpo train --config=configs/rloo.py:smollm --workdir=runs/rloo

On-policy: every step learns from new samples. Here a small list of words scores
them (sentiment in -1 .. 1); --config.judge.name=reward_model with
--config.judge.source=RUN takes a reward model instead, and
configs/recipes/rloo.py trains one first.

Use 4 samples a prompt. Expect `rewards/mean` to rise.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = recipes.sampled(variant, "rloo", beta=0.03)
  return c
