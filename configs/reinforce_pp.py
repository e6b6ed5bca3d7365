"""REINFORCE++: token rewards to go, whitened over the batch.

Paper: https://arxiv.org/abs/2501.03262

    xpo train --config=configs/reinforce_pp.py:smollm --workdir=runs/rpp

On-policy: every step learns from new samples. Here a small list of words scores
them (sentiment in -1 .. 1); --config.judge.name=reward_model with
--config.judge.source=RUN takes a reward model instead, and
configs/recipes/reinforce_pp.py trains one first.

One sample a prompt is enough. Expect `rewards/mean` to rise.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = recipes.sampled(variant, "reinforce_pp", completions=1, kl_coef=0.01)
  return c
