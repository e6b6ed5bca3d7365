"""PPO from human feedback: clipped steps, value head, KL reward.

Paper: https://arxiv.org/abs/2203.02155

    xpo train --config=configs/ppo.py:smollm --workdir=runs/ppo

On-policy: every step learns from new samples. Here a small list of words scores
them (sentiment in -1 .. 1); --config.judge.name=reward_model with
--config.judge.source=RUN takes a reward model instead, and
configs/recipes/instructgpt.py trains one first.

Expect the mean score to rise and `policy/clip_fraction` to stay below 0.3.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = recipes.sampled(variant, "ppo", completions=1, kl_coef=0.02)
  c.rollout.prompts, c.rollout.epochs = 2 * c.batch.prompts, 2
  return c
