"""Unlikelihood: lower the probability of every rejected token.

Paper: https://arxiv.org/abs/1908.04319

    xpo train --config=configs/unlikelihood.py:smollm --workdir=runs/ul

Rows are prompt, completion, label, and only bad ones count; of pairs, the
rejected half. Unlike in configs/ga.py a token that is already unlikely is left
alone; expect `loss` to fall towards 0 and `logps/forget` to sink slowly.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("unlikelihood")
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 60, "tiny": 100}.get(variant, 1000)
  return c
