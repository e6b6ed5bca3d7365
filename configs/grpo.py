"""GRPO: rewards normalised within the group of a prompt's samples.

Paper: https://arxiv.org/abs/2402.03300

    xpo train --config=configs/grpo.py:smollm --workdir=runs/grpo

On-policy: every step learns from new samples. Here a small list of words scores
them (sentiment in -1 .. 1); --config.judge.name=reward_model with
--config.judge.source=RUN takes a reward model instead, and
configs/recipes/grpo.py trains one first.

Use 8 or more samples a prompt. Expect `rewards/mean` to rise while
`kl/reference` stays small.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = recipes.sampled(variant, "grpo", completions=8, beta=0.04)
  return c
