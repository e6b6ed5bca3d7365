"""GSPO: one importance ratio a sample instead of one a token.

Paper: https://arxiv.org/abs/2507.18071

    xpo train --config=configs/gspo.py:smollm --workdir=runs/gspo

On-policy: every step learns from new samples. Here a small list of words scores
them (sentiment in -1 .. 1); --config.judge.name=reward_model with
--config.judge.source=RUN takes a reward model instead, and
configs/recipes/grpo.py trains one first.

Use 8 or more samples a prompt. Its clip range is far narrower than that of
configs/grpo.py, yet expect a larger `policy/clip_fraction`.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = recipes.sampled(variant, "gspo", completions=8)
  return c
