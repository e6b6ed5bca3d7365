"""DAPO: GRPO with a higher upper clip and one mean over all tokens.

Paper: https://arxiv.org/abs/2503.14476

    xpo train --config=configs/dapo.py:smollm --workdir=runs/dapo

On-policy: every step learns from new samples. Here a small list of words scores
them (sentiment in -1 .. 1); --config.judge.name=reward_model with
--config.judge.source=RUN takes a reward model instead, and
configs/recipes/dapo.py trains one first.

Use 16 samples a prompt. Expect `policy/clip_high_fraction` to be lower than
under configs/grpo.py, and the policy's entropy to last longer.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = recipes.sampled(variant, "dapo", completions=8)
  c.rollout.max_batches = 2
  c.rollout.overlong_buffer = c.data.max_completion_length // 4
  return c
