"""Nash-EMA: beat the moving average of the policy.

Paper: https://arxiv.org/abs/2312.00886

    xpo train --config=configs/nash_ema.py:smollm --workdir=runs/nash_ema

On-policy: every step draws a sample of the policy and one of its opponent, and
a judge says how likely the first is to win. Here that is a small list of words
(a score in -1 .. 1, P = sigma of the difference), so nobody can win by much;
configs/recipes/nash_ema.py trains a preference model first.
Expect `rewards/win_rate` to rise from 1/2.
"""

from xpo_jax import config, recipes


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = recipes.sampled(variant, "nash_ema", completions=1, tau=0.008)
  c.rollout.select, c.rollout.opponent = "against", "ema"
  return c
