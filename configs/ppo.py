"""PPO from human feedback: clipped steps, value head, KL reward.

Paper: https://arxiv.org/abs/2203.02155

    xpo train --config=configs/ppo.py:smollm --workdir=runs/ppo

On-policy: it learns from samples of the policy, scored by a reward. The loop
that draws and scores them is not built yet, so that this command stops with a
message about the missing columns; until then the recipe validates, and the loss
with its `prepare` serves rollouts that you make in Python.

Expect the mean score to rise and `policy/clip_fraction` to stay below 0.3.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("ppo", kl_coef=0.02)
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 80, "tiny": 150}.get(variant, 1000)
  return c
