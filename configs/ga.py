"""Gradient ascent on rejected completions: NPO's baseline, unbounded.

Paper: https://arxiv.org/abs/2404.05868

    xpo train --config=configs/ga.py:smollm --workdir=runs/ga

Rows are prompt, completion, label, and only bad ones count. The loss is the
log-prob of what is to be forgotten: expect it to fall without end and the model
with it. So few steps, a small step size, and compare with configs/npo.py.
"""

from xpo_jax import config


def get_config(arg: str = ""):
  variant = config.parse_arg(arg, variant=config.VARIANTS).variant
  c = config.base(variant)
  c.method = config.method("ga")
  c.data.source = "films"
  c.optimizer.warmup_steps = 5
  c.train.epochs = 0.0
  c.train.steps = {"smollm": 20, "tiny": 30}.get(variant, 1000)
  return c
